"""What a training run is made of, as its hash and as the name of its result."""

import hashlib
import json
import re


def provenance_hash(provenance: dict) -> str:
    """The first 8 hex digits of the SHA-256 of a provenance's canonical JSON (sorted, no spaces).
    """
    canonical = json.dumps(provenance, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]


def result_name(result: dict) -> str:
    """A file name in words a person looks for; all else of the provenance is in the hash.

    `result` is a training run's record, of which `provenance` and `seed` are read.
    """
    of = result["provenance"]
    words = [of["dataset"], of["model"], f"n{of['train_images']}", f"e{of['epochs']}", of["run"]]
    if "morph_distribution" in of:
        words += [f"s{of['tile']}" if of["tile"] else f"k{of['kappa']}", of["morph_distribution"]]
        words += [of["delivery_dtype"]] if of["delivery_dtype"] != "float32" else []
    readable = re.sub(r"[^a-z0-9_]+", "-", "-".join(words).lower())
    return f"{readable}-{provenance_hash(of)}-seed{result['seed']}.json"
