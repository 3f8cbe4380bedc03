"""Tables of what attacks, experiments and stress tests measured, each made of its record."""

from experiments.tables.formulas import morphing_macs, pairs_needed, vgg_macs
from experiments.tables.reading import (
    Results,
    describe_load,
    describe_seconds,
    machine_in_words,
    seconds_on_aug_conv,
    source_of,
)
from experiments.tables.rows import (
    choose_setting,
    describe_accuracy,
    describe_morphing,
    title_of,
    title_of_dataset,
)
from experiments.tables.table import (
    Column,
    Table,
    table_of_records,
    write_number,
    write_range,
)
from utils.attack_reports import UNDER_ATTACK, share_found, write_share

# Of the rows in the README's table of attacks:
ATTACKED_IMAGES = 10_000            # private images
PUBLIC_IMAGES = 50_000              # of the same data set
MAIN_IMAGES = "cifar10"             # whose rows compare cores, blocks and public images
CORES = ("orthogonal", "normal", "uniform")
IMAGES_PSNR = "peak signal-to-noise ratio of recovered and plain images"


def describe_blocks(row: dict) -> str:
    """κ, or the side s of tiles."""
    return f"s = {row['tile']}" if row["tile"] else f"κ = {row['kappa']}"


# -- Equal predictions

AGREEMENT_COLUMNS = [
    Column("core", "morph_distribution"),
    Column("blocks", "blocks", meaning="κ, copies of the core in *M*, or *s*, the side of tiles"),
    Column("delivered as", "delivery_dtype"),
    Column("equal", "equal", "{:,}", "test images whose predicted class is the same",
           absent="refused: features too inexact"),
    Column("images", "images", "{:,}"),
]


def make_agreement(results: Results) -> Table:
    record = results.records["agreement"]
    rows = [row | {"blocks": describe_blocks(row)} for row in record["table"]]
    return table_of_records(
        "Equal predictions of the plain network and of its own later layers behind Aug-Conv.",
        AGREEMENT_COLUMNS, rows, f"{source_of(record)}.")


# -- What κ changes

KAPPA_COLUMNS = [
    Column("κ", "kappa"),
    Column("q", "q", "{:,}", "side of the core"),
    Column("share", "share", "{:.2%}", "multiply-adds of morphing, of VGG-16's at 32 pixels"),
    Column("pairs needed", "pairs_needed", "{:,}",
           "known plain and morphed images that determine the core"),
    Column("error of the features", "error_of_the_features", "{:.1e}", "relative, in float32"),
    Column("SSIM", "ssim", "{:.3f}", "structural similarity of morphed images, stretched to the "
           "range of pixels, and plain ones"),
    Column("PSNR", "psnr", "{:.1f} dB", "of the same"),
    Column("condition number", "condition_number", "{:.3g}", "of the core"),
]


def make_kappa(results: Results) -> Table:
    record = results.records["kappa"]
    rows = []
    for point in record["sweep"]:
        entries = point["q"] * point["kappa"]
        share = morphing_macs(entries, point["kappa"]) / vgg_macs("vgg16", 10)
        needed = pairs_needed(point["q"], point["kappa"])
        rows.append(point | {"share": share, "pairs_needed": needed})
    note = (f"{source_of(record)}; {record['morph_distribution']} cores, "
            f"{record['images']} images of {title_of_dataset(record['images_of'])}.")
    return table_of_records("What κ changes.", KAPPA_COLUMNS, rows, note)


# -- Image files, stress

INPUTS_COLUMNS = [
    Column("cases", "cases"), Column("read with the right pixels", "right_pixels"),
    Column("refused in one line", "refused_in_one_line"),
]
STRESS_COLUMNS = [
    Column("test", "test"), Column("cases", "cases", "{:,}", absent="not run here"),
    Column("outcomes", "outcomes"),
]


def make_inputs(results: Results) -> Table:
    record = results.records["inputs"]
    return table_of_records("Image files and folders of all kinds.", INPUTS_COLUMNS, [record],
                            f"{source_of(record)}.")


def make_stress(results: Results) -> Table:
    record = results.records["stress"]
    rows = []
    for row in record["table"]:
        outcomes = [f"{count} {what.replace('_', ' ')}" for what, count in row["outcomes"].items()]
        rows.append(row | {"outcomes": ", ".join(outcomes)})
    return table_of_records("Interruption, damage and hostile files.", STRESS_COLUMNS, rows,
                            f"{source_of(record)}.")


# -- Homomorphic encryption

HE_COLUMNS = [
    Column("way", "way"),
    Column("seconds", "seconds", "{:.2g}", "for one image, encryption and decryption included"),
    Column("times the plain layer", "seconds_ratio", "{:,.3g}"),
    Column("bytes", "bytes", "{:,}", "sent for one image"),
    Column("times the pixels", "expansion", "{:,.3g}"),
    Column("largest error", "largest_error", "{:.1g}", "of a feature"),
]


def make_he(results: Results) -> Table:
    record = results.records["he"]
    note = (f"{record['note']} The fastest CKKS takes {record['seconds_over_mole']:.0f} times "
            f"MoLe's time and {record['bytes_over_mole']:.0f} times its bytes. "
            f"TenSEAL {record['versions']['tenseal']}. {source_of(record)}.")
    return table_of_records(
        "One first layer, 3→64, 3×3, on a 32×32 image: CKKS against MoLe.", HE_COLUMNS,
        record["table"], note)


# -- Speed

def make_bench(results: Results) -> Table:
    """A row for each figure, a column for each processor."""
    benches = list(results.benches.values())
    units, targets = {}, {}         # by figure; a machine with a GPU has no targets
    for record in benches:
        for row in record["table"]:
            units[row["figure"]] = row["unit"]
            if "target" in row:
                targets[row["figure"]] = row["target"]
    rows = []
    for figure, unit in units.items():
        cells = [describe_speed(record, figure) for record in benches]
        rows.append([figure, unit, *cells, targets.get(figure, "none")])
    header = ["figure", "unit", *map(machine_in_words, benches), "target"]
    counts = sorted({record["size"]["train_images"] for record in benches})
    images = write_number("{:,} images", counts[0]) if len(counts) == 1 else "some images"
    commands = "; ".join(f"{source_of(record)}, {describe_load(record)}" for record in benches)
    return Table("Speed, beside the reference's algorithm.", header, rows,
                 "Each cell: the reference's algorithm, in float32, or what *reference* names → "
                 "this program, which trains in bfloat16 where the processor multiplies in it. "
                 "And their ratio: how many times better this program is; where the reference is "
                 "*plain, here* or *the pixels*, how many times as much it takes. Epochs are of "
                 f"{images}, after the first, without tests. Medians; "
                 "*target*: this project's own aim, set before it was measured; *missed* stands "
                 f"where it is not reached. {commands}.")


def describe_speed(record: dict, figure: str) -> str:
    row = next((row for row in record["table"] if row["figure"] == figure), None)
    if row is None:
        return "not measured on this machine"
    values = f"{write_figure(row['reference'])} → {write_figure(row['here'])}"
    if row.get("reached", True):
        return f"{values} ({row['ratio']:.3g}×)"
    # A digit more, where it may be missed by little.
    return f"{values} ({row['ratio']:.4g}×), missed"


def write_figure(value: float) -> str:
    """To four digits, or to units where it has more."""
    return write_number("{:,.0f}", value) if value >= 1000 else f"{value:.4g}"


# -- Attacks

NOT_PLAYED = "not played"
NONE = "none"


def outcome(report: dict | None, form: str = "{:.1f} dB") -> str:
    """What an attack's report says in a cell: PSNR, or why it failed, or that it was not played.

    From morphed images alone: the PSNR of mirror images says nothing, and an attack that says that
    it failed is quoted so.
    """
    if report is None:
        return NOT_PLAYED
    if "psnr" not in report:
        return f"fails: {report['failed']}" if "failed" in report else "fails"
    words = form.format(report["psnr"])
    if "reidentified" not in report:
        return words
    if share_found(report).is_mirrored:
        words = "mirror images"
    return quote_failure(words, report)


def quote_failure(words: str, report: dict) -> str:
    """Words on an attack's result, and whether the attack itself says that it failed."""
    return f"{words} (failed by its own account)" if "failed" in report else words


def describe_share(report: dict) -> str:
    """Such as "99.9%" or "96.0% as mirror images"."""
    share, is_mirrored = share_found(report)
    words = write_share(share)
    return f"{words} as mirror images" if is_mirrored else words


def describe_alone(report: dict | None) -> str:
    """What came back from morphed images alone: PSNR, and the share that is re-identified; or that
    share of mirror images alone."""
    if report is None:
        return NOT_PLAYED
    if "reidentified" not in report:
        return outcome(report)
    words = describe_share(report)
    if not share_found(report).is_mirrored:
        words = f"{report['psnr']:.1f} dB, {words}"
    return quote_failure(words, report)


DELIVERY_COLUMNS = [
    Column("attack", "attack"),
    Column("PSNR", "words", meaning=IMAGES_PSNR),
    Column("SSIM", "ssim", "{:.3f}", absent=NONE),
    Column("exact", "exact_share", meaning="8-bit values that come back", absent=NONE),
    Column("re-identified", "share", meaning="of all test images, those whose own plain "
           "image is the nearest of all to what came back", absent="not counted"),
    Column("seconds", "seconds", "{:.2f}", absent=NONE),
    Column("channels right", "channels_right", absent="not used"),
]


def make_attacks(results: Results) -> Table:
    """What came back in one attack on the project's own delivery."""
    record = results.records["attacks"]
    attacks = {}
    for words, name in (("first layer known, by its developer", "known_first_layer"),
                        ("blind: first layer unknown", "blind")):
        attacks[words] = record[name] | {"seconds": seconds_on_aug_conv(record, name)}
    attacks["morphed images alone, no Aug-Conv"] = record["data_only"]
    for point in record["known_pairs"]:
        words = f"{point['pairs']} known pairs ({point['least']} determine the core)"
        attacks[words] = point
    rows = []
    for words, report in attacks.items():
        row = report | {"attack": words, "words": outcome(report)}
        if "exact" in report:
            row["exact_share"] = write_share(report["exact"])
        if "reidentified" in report:
            row["share"] = describe_share(report)
        rows.append(row)
    note = (f"*PSNR*, *SSIM* and *exact* are of {record['images']} test images. "
            f"{describe_morphing(record['data']['morphing'])}. {source_of(record)}.")
    return table_of_records("Attacks on the project's own delivery.", DELIVERY_COLUMNS, rows, note)


MATRIX_COLUMNS = [
    Column("images", "images", meaning="data set, side, private images that are attacked"),
    Column("public", "public", "{:,}", "public images of the same data set"),
    Column("first layer", "layer", meaning="such as 7×7/2: kernel and stride"),
    Column("delivery", "delivery", meaning="core, blocks, dtype; the key, where it is a further "
           "one"),
    Column("order from", "order_from",
           meaning="what gives the order of the channels away, the first layer known: Aug-Conv's "
           "bias, second-order statistics of features (projector), or comparison with public "
           "images (likeness)"),
    Column("channels right", "channels_right"),
    Column("known", "known", meaning="PSNR of all pixels, first layer known"),
    Column("blind", "blind", meaning="PSNR of the pixels that are found, first layer unknown; or "
           "why it fails"),
    Column("left open", "left_open", meaning="what these two attacks do not find; all but some "
           "pixels: the blind one"),
    Column("alone", "alone", meaning="PSNR, from morphed images alone"),
    Column("SSIM", "ssim", meaning="of the same"),
    Column("re-identified", "reidentified", meaning="of the same: images whose own plain image is "
           "the nearest of all"),
    Column("alone, 1 000 public", "few", meaning="PSNR and re-identified, with 1 000 of the public "
           "images"),
    Column("alone, other public", "other", meaning="the same with public images of another data "
           "set"),
    Column("pairs needed", "pairs_needed", "{:,}", "known pairs that determine the core",
           absent=NOT_PLAYED),
    Column("authors' own", "authors_own", meaning="PSNR up to colour, of the attack in the "
           "authors' first code"),
    Column("seconds", "seconds", "{:.0f}", "of all attacks of the row"),
]


def make_attack_matrix(results: Results) -> Table:
    """Every row of the matrix of attacks."""
    record = results.records["attack_matrix"]
    rows = [describe_case(row) for row in record["table"]]
    return table_of_records("The attacks over first layers, cores, κ or tiles, and dtypes.",
                            MATRIX_COLUMNS, rows,
                            note_of_matrix(record, record["table"]))


def note_of_matrix(record: dict, rows: list[dict]) -> str:
    """The source of a table that shows some rows of the matrix, and whose first layers these have.
    """
    machines = sorted({machine_in_words(row if "machine" in row else record)
                       for row in record["table"]})
    seconds = sum(row["seconds"] for row in record["table"])
    layers = []
    for weights in ("trained", "untrained"):
        models = sorted({row["model"] for row in rows if row["weights"] == weights})
        if models:
            layers.append(f"{weights}: {', '.join(models)}")
    return (f"First layers {'; '.join(layers)} (as commands.txt puts them there). "
            f"`{record['command']}` on "
            f"{' and '.join(machines)}, {describe_seconds(seconds)} for all of the matrix.")


def describe_case(row: dict) -> dict:
    """The words of a row of the matrix, by the paths of its columns."""
    known, blind, alone = (row.get(name) for name in ("known_first_layer", "blind", "data_only"))
    images = f"{title_of_dataset(row['dataset'])} {row['image_size']}"
    words = {
        "images": write_number("{0[0]}, {0[1]:,}", (images, row["private"])),
        "layer": f"{row['model']}: {row['first_layer']}",
        "public": row["public"],
        "delivery": describe_delivery(row),
        "order_from": part_of(known, "order_from"),
        "channels_right": part_of(known, "channels_right"),
        "known": outcome(known), "blind": outcome(blind),
        "left_open": describe_left_open(known, blind),
        "alone": outcome(alone), "ssim": describe_ssim(alone),
        "reidentified": describe_reidentified(alone),
        "few": describe_alone(row.get("data_few")), "other": describe_alone(row.get("data_other")),
        "authors_own": outcome(row.get("inverse_training")),
        "seconds": row["seconds"],
    }
    if "known_pairs" in row:
        words["pairs_needed"] = row["known_pairs"][-1]["least"]
    return words


def describe_delivery(row: dict) -> str:
    """Core, blocks and dtype; the key, if it is not the first one."""
    words = f"{row['morph_distribution']}, {describe_blocks(row)}, {row['delivery_dtype']}"
    return f"{words}, key {row['seed']}" if row.get("seed") else words


def part_of(report: dict | None, name: str, form: str = "{}") -> str:
    """A value of an attack's report; words where the attack failed or was not played."""
    if report is None:
        return NOT_PLAYED
    return form.format(report[name]) if name in report else "not found"


def describe_ssim(alone: dict | None) -> str:
    """Of what came back from morphed images alone; that of mirror images says nothing."""
    has_share = alone is not None and "reidentified" in alone
    if has_share and share_found(alone).is_mirrored:
        return "mirror images"
    return part_of(alone, "ssim", "{:.3f}")


def describe_reidentified(alone: dict | None) -> str:
    has_share = alone is not None and "reidentified" in alone
    return describe_share(alone) if has_share else part_of(alone, "reidentified")


def describe_left_open(known: dict | None, blind: dict | None) -> str:
    """What the two attacks on Aug-Conv do not find, each once."""
    if known is None:
        return NOT_PLAYED
    parts = []
    if "left_open" in known:
        parts.append(known["left_open"])
    if blind is not None and blind.get("left_open") not in (None, *parts):
        parts.append(blind["left_open"])
    if blind is not None and "psnr" not in blind:
        has_pixels = "up_to_colour" in blind
        parts.append("blind: the mixture of channels" if has_pixels else "blind: everything")
    return "; ".join(parts) or "nothing"


def rows_of_cores(record: dict) -> list[dict]:
    """The rows of the matrix that compare cores and blocks: 10 000 images of CIFAR-10 in float32,
    attacked with 50 000 public ones."""
    found = []
    for row in record["table"]:
        is_one = (row["private"] == ATTACKED_IMAGES and row["delivery_dtype"] == "float32"
                  and row["public"] == PUBLIC_IMAGES
                  and row["dataset"] == MAIN_IMAGES and "data_only" in row)
        if is_one:
            found.append(row)
    return found


def make_protection(results: Results) -> Table:
    """What an adversary gets, by κ and tile."""
    record = results.records["attack_matrix"]
    cases: dict[str, dict[str, dict]] = {}               # by blocks and core
    for row in rows_of_cores(record):
        cases.setdefault(describe_blocks(row), {})[row["morph_distribution"]] = row
    rows = [[blocks, *describe_protection(cores)] for blocks, cores in cases.items()]
    many = write_number("{:,}", PUBLIC_IMAGES)
    header = ["blocks", "with Aug-Conv, first layer known: at least",
              "with Aug-Conv, layer unknown: at least", f"no Aug-Conv, {many} public images",
              "1 000 public images: re-identified",
              f"{many} of another data set: re-identified",
              "known pairs that determine the core"]
    note = ("*Blocks*: κ, copies of the core in *M*, or *s*, the side of tiles. A cell covers "
            f"{len(CORES)} cores ({', '.join(CORES)}), one key each; other keys differ by some dB. "
            "No Aug-Conv: PSNR, and the share of images that are *re-identified*: what came back "
            "is nearest to their own plain image, or to its mirror image (*mirrored*). PSNR is of "
            f"{UNDER_ATTACK} of the images. {note_of_matrix(record, rows_of_cores(record))}")
    return Table("What an adversary gets.", header, rows, note)


def describe_protection(cores: dict[str, dict]) -> list[str]:
    cells = []
    for attack in ("known_first_layer", "blind"):
        reports = [row[attack] for row in cores.values() if attack in row]
        lowest = min(reports, key=lambda report: report.get("psnr", 0), default=None)
        cells.append(outcome(lowest, "{:.0f} dB"))
    alone = [row["data_only"] for row in cores.values()]
    cells.append(describe_range(alone, with_psnr=True))
    for attack in ("data_few", "data_other"):
        cells.append(describe_range([row[attack] for row in cores.values() if attack in row]))
    pairs = next((row["known_pairs"] for row in cores.values() if "known_pairs" in row), None)
    cells.append(write_number("{:,}", pairs[-1]["least"]) if pairs else NOT_PLAYED)
    return cells


def describe_range(reports: list[dict], with_psnr: bool = False) -> str:
    """The least and the most that several attacks re-identify, such as
    "65.2% to 100.0% (mirrored for 1 core)".

    `with_psnr`: PSNR comes first, of those that are not mirrored.
    """
    scored = [report for report in reports if "reidentified" in report]
    if not scored:
        return outcome(reports[0]) if reports else NOT_PLAYED
    found = [share_found(report) for report in scored]
    words = write_range([one.share for one in found], write_share)
    quality = [report["psnr"] for report in scored if not share_found(report).is_mirrored]
    if with_psnr and quality:
        words = f"{write_range(quality, '{:.0f}'.format)} dB, {words}"
    mirrored = sum(one.is_mirrored for one in found)
    if mirrored:
        words += f" (mirrored for {mirrored} core{'s' if mirrored > 1 else ''})"
    if len(scored) < len(reports):
        words += f" ({len(reports) - len(scored)} of {len(reports)} fail)"
    return words


# -- Morphed images alone, by the public images

PUBLIC_COLUMNS = [
    Column("blocks", "blocks", meaning="κ, copies of the core in *M*, or *s*, the side of tiles"),
    Column("core", "core"),
    Column("50 000 of the same data set", "many"),
    Column("seconds", "many_seconds", "{:.0f}", absent=NOT_PLAYED),
    Column("1 000 of the same data set", "few"),
    Column("seconds", "few_seconds", "{:.0f}", absent=NOT_PLAYED),
    Column("50 000 of another data set", "other"),
    Column("seconds", "other_seconds", "{:.0f}", absent=NOT_PLAYED),
]


def make_public_images(results: Results) -> Table:
    """Re-identified images for each core and blocks, by the public images."""
    record = results.records["attack_matrix"]
    rows = []
    for row in rows_of_cores(record):
        words = {"blocks": describe_blocks(row), "core": row["morph_distribution"]}
        for name, attack in (("many", "data_only"), ("few", "data_few"), ("other", "data_other")):
            report = row.get(attack)
            words[name] = describe_alone(report)
            words[f"{name}_seconds"] = report.get("seconds") if report else None
        rows.append(words)
    note = ("Cells: PSNR, and the share of the 10 000 private images of CIFAR-10 whose own plain "
            "image is the nearest of all to what came back. Some have the share whose mirror "
            "image came back instead. Public images: of CIFAR-10, or of CIFAR-100. "
            f"{note_of_matrix(record, rows_of_cores(record))}")
    return table_of_records("Morphed images alone, by the public images.", PUBLIC_COLUMNS, rows,
                            note)


ACROSS_COLUMNS = [
    Column("private images", "private"),
    Column("public images", "public"),
    Column("core", "morph_distribution"),
    Column("key", "seed", meaning="the number of a random key"),
    Column("PSNR", "psnr"),
    Column("re-identified", "share", meaning="private images whose own plain image is the nearest "
           "of all to what came back", absent=NONE),
    Column("as mirror images", "mirrored", meaning="the same of the mirror images of what came "
           "back, of which some per cent are nearest to a right answer too", absent="not counted"),
    Column("left or right", "orientation", "{:.1f}", "how sure that choice is: the log likelihood "
           "ratio, reliable from 10 on", absent="not decided"),
    Column("starts that agree", "starts", meaning="searches that led to the same images",
           absent=NONE),
    Column("seconds", "data_other.seconds", "{:.0f}", "of the search", absent=NONE),
    Column("the attack says", "says", meaning="its own verdict, without the truth"),
]


def make_across(results: Results) -> Table:
    """Public images of another data set, key by key, κ = 1."""
    record = results.records["attack_matrix"]
    rows = []
    for row in record["table"]:
        if "data_other" not in row or row["tile"] or row["kappa"] != 1:
            continue
        report = row["data_other"]
        words = {"private": title_of_dataset(row["dataset"]),
                 "public": title_of_dataset(report["public_dataset"]),
                 "psnr": outcome(report), "says": "failed" if "failed" in report else "found"}
        if "orientation" in report:
            words["orientation"] = abs(report["orientation"])
        if "reidentified" in report:
            words["share"] = write_share(report["reidentified"])
        if "reidentified_mirrored" in report:
            words["mirrored"] = write_share(report["reidentified_mirrored"])
        if "starts" in report:
            words["starts"] = f"{report['agreeing']} of {report['starts']}"
        rows.append(row | words)
    note = note_of_matrix(record, rows)
    rows.sort(key=lambda row: (row["private"], row["morph_distribution"], row["seed"]))
    return table_of_records(
        "Morphed images alone, with public images of another data set, κ = 1.", ACROSS_COLUMNS,
        rows, note)


REPAIR_COLUMNS = [
    Column("repair", "words"),
    Column("error of the features", "error_of_the_features", "{:.2g}", "relative",
           absent="none"),
    Column("known", "known", meaning="PSNR, first layer known"),
    Column("denoised", "known_first_layer_denoised.psnr", "{:.1f} dB", "PSNR of the same, where "
           "the attack expects noise", absent="no noise"),
    Column("blind", "blind", meaning="PSNR up to colour, first layer unknown"),
    Column("accuracy", "accuracy", "{:.2%}", "of a network behind the repaired Aug-Conv"),
]
REPAIR_WORDS = {
    "none": "none: Aug-Conv as it is",
    "signs": "random signs of channels",
    "scales": "random signs and factors of channels, log-normal, standard deviation {:g}",
    "mixing": "channels mixed by one random matrix",
    "local_mixing": "channels mixed by another random matrix at each position",
    "channels": "{:g} channels kept",
    "noise": "normal noise, {:g} of the root mean square of Aug-Conv's entries",
}


def make_repairs(results: Results) -> Table:
    record = results.records["repairs"]
    rows = []
    for row in record["table"]:
        known = row["known_first_layer"] or None         # empty where it was not played
        blind = row["blind"].get("up_to_colour", row["blind"])
        rows.append(row | {"words": REPAIR_WORDS[row["repair"]].format(row["strength"]),
                           "known": outcome(known), "blind": outcome(blind)})
    case = record["case"]
    images = write_number("{:,}", record["train_images"])
    tested = write_number("{:,}", record["test_images"])
    note = (f"{title_of_dataset(case['dataset'])}, κ = {case['kappa']}, "
            f"{case['morph_distribution']} core; *accuracy*: of {record['model']}, one seed, "
            f"{images} training images, {tested} test images. {source_of(record)}.")
    return table_of_records("Repairs of Aug-Conv.", REPAIR_COLUMNS, rows, note)


# -- The reference's defects

DEFECT_COLUMNS = [
    Column("training", "change", meaning="what is done as in the reference scripts"),
    Column("accuracy", "accuracy", "{:.2%}", "of the test images after the last epoch"),
    Column("points", "points", "{:+.2f}", "less the first row's"),
    Column("best epoch", "best", "{:.2%}", "what choosing the epoch on the test set would report"),
    Column("minutes", "minutes", "{:.0f}"),
]


def make_defects(results: Results) -> Table:
    record = results.records["defects"]
    rows = []
    for row in record["table"]:
        points = 100 * (row["accuracy"] - record["table"][0]["accuracy"])
        rows.append(row | {"points": points, "minutes": row["seconds"] / 60})
    note = f"{title_of(record['settings'] | record['data'])}, one seed"
    return table_of_records("What the defects of the reference scripts cost.", DEFECT_COLUMNS, rows,
                            f"{note}{describe_spread(record, results)}. {source_of(record)}.")


def describe_spread(record: dict, results: Results) -> str:
    """How much the seed alone changes: the plain networks of the training steps with the settings
    and data of a record."""
    setting = choose_setting(record["settings"], record["data"])
    decay = record["settings"]["weight_decay"]
    runs = [run for run in results.runs if run.run == "pretrained"
            and choose_setting(run.settings, run.data) == setting
            and run.settings["weight_decay"] == decay]
    if not runs:
        return ""
    return f"; trained by the steps as in the first row: {describe_accuracy(runs)}"
