"""Every figure that the paper and its README publish, beside what is so (VGG-16 on CIFAR)."""

import math
import re
from pathlib import Path

from experiments.tables.formulas import aug_conv_entries, morphing_macs, vgg_macs
from experiments.tables.runs import PAPER, compared, format_accuracy, in_rows, morphed
from experiments.tables.tables import Table, formatted

ALPHA, M, BETA, IMAGES = 3, 32, 64, 60_000
ENTRIES, FEATURES, NETWORK = ALPHA * M * M, BETA * M * M, vgg_macs("vgg16", 10)
KAPPAS, TILES = (1, 3, 12, 48, 192), (32, 16, 8, 4)
ROWS = """
accuracy with Aug-Conv | “close to pretrain” | T·C_ac = D·M·M⁻¹·C = D·C | equal | {with_ac}; plain
  {pretrained} ({setting})
accuracy without Aug-Conv | “very low” | — | — | {no_ac}; plain {pretrained} ({setting})
computation | 9% | αp²m²n² over the network's multiply-adds, our guess at what was counted |
  {likely_published_macs:,} / {network_macs:,} = {likely_published_overhead:.2%} | —
computation of the developer | not published | (αm²·βn² − αβp²n²) over the network's: the dense
  Aug-Conv in place of the first layer | {composed_overhead:.1%} | an epoch takes
  {bench[epoch_not_kept][ratio]:.2f} times a plain one; {bench[epoch][ratio]:.2f} times with
  Aug-Conv's output kept
computation of the provider | not published | αm²·q over the network's, once an image |
  {morphing_overhead:.2%} | {bench[morphing][here]:,.0f} images/s
data transmission | 5.12% | q·αm² over the data set's entries, 60 000·αm²: a matrix as large as M,
  which is not sent | 3072/60000 = {published_transmission:.2%} | —
data transmission, what is sent | not published | entries of Aug-Conv, αm²·βn², over the data
  set's | {transmission_by_entries:.0%} | —
data transmission, bytes | not published | float32 morphed images and Aug-Conv over uint8 images |
  {transmission_by_bytes:.0%} more: {morphed_bytes:,} and {aug_conv_bytes:,} for {plain_bytes:,} | —
chance of an attack's success | 7.9·10⁻⁹⁰ | 1/64!, guessing the order of 64 channels |
  {order_guess:.1e} | no guess is needed: {attacks[known_first_layer][channels_right]} of
  {attacks[known_first_layer][channels]} channels right, images at
  {attacks[known_first_layer][psnr]:.0f} dB, {attacks[known_first_layer][seconds]:.1f} s
GAZELLE, computation | 10 000× | could not be derived: published only | — |
  {he[seconds_ratio]:,.0f}× for CKKS, first layer
GAZELLE, data | 421 000× | 1236 MiB (GAZELLE, USENIX Security 2018) over 3072 B |
  {gazelle_ratio:,.0f}× | {he[bytes_ratio]:,.0f}× 3072 B for CKKS, first layer
GAZELLE, chance of success | 2.9·10⁻³⁰ | could not be derived; 2⁻¹²⁸ has the digits, so the exponent
  looks like a slip of the pen | {gazelle_guess:.1e} | —
"""
TILE_ROW = """tiles of side {tile} | not published | Aug-Conv: multiply-adds, of the network's;
  bytes, of the images' | {macs:,} = {share_of_network:.1%}; {bytes:,} = {share_of_data:.1%} | —"""


def tile_costs(tile: int, m: int = M) -> dict:
    """Aug-Conv of tiles of this side, for images of side m: multiply-adds, bytes, their shares."""
    tiles, entries = math.ceil(m / tile) ** 2, aug_conv_entries(ALPHA, m, BETA, tile)
    return {"tile": tile, "tiles": tiles, "macs": tiles * entries, "bytes": 4 * entries,
            "share_of_network": tiles * entries / vgg_macs("vgg16", 10, side=m),
            "share_of_data": 4 * entries / (IMAGES * ALPHA * m * m)}


def computed() -> dict:
    """What the formulas give for the paper's case; results/analysis.json."""
    counted, first_layer = ALPHA * 9 * M ** 4, 9 * ALPHA * FEATURES       # αp²m²n² and αβp²n²
    return {
        "network_macs": NETWORK, "likely_published_macs": counted,
        "likely_published_overhead": counted / NETWORK,
        "composed_overhead": (ENTRIES * FEATURES - first_layer) / NETWORK,
        "morphing_overhead": morphing_macs(ENTRIES) / NETWORK,
        "published_transmission": ENTRIES / IMAGES, "transmission_by_entries": FEATURES / IMAGES,
        "transmission_by_bytes": 3 + 4 * FEATURES / IMAGES, "plain_bytes": IMAGES * ENTRIES,
        "morphed_bytes": 4 * IMAGES * ENTRIES, "aug_conv_bytes": 4 * ENTRIES * FEATURES,
        "order_guess": 1 / math.factorial(BETA), "gazelle_guess": 2 ** -128,
        "gazelle_ratio": 1236 * 2 ** 20 / ENTRIES, "tiles": [tile_costs(tile) for tile in TILES]}


def values_of(records: dict) -> dict:
    """All that is computed and measured, by the names that ROWS and reproduction.md have for it."""
    values = computed() | records
    values["bench"] = {row["name"]: row for row in records.get("bench", {}).get("table", [])}
    for best in [row for row in in_rows(records["accuracy"]) if row.morphing == morphed(PAPER)][:1]:
        values |= {"setting": best.setting} | {
            name: format_accuracy(runs) for name, runs in best.runs.items() if runs}
    return values


def reproduction(records: dict) -> str:
    """The report on the paper's claims, one by one: reproduction.md with its figures put in."""
    values = values_of(records)
    values["tile"] = {tile["tile"]: tile for tile in values["tiles"]}
    for row in in_rows(records["accuracy"]):
        if row.morphing.startswith("s = ") and row.runs["pretrained"] and row.runs["no_ac"]:
            values.setdefault("by_tiles", row._asdict() | {
                name: format_accuracy(runs) for name, runs in row.runs.items()})
    values["same"] = next((row for row in records.get("agreement", {}).get("table", [])
                           if row["morph_distribution"] == "uniform"), {})
    tested = [row for row in compared(records) if "low" in row]
    values["equal"] = {
        "found": "; ".join(formatted("{setting}; {morphing}: {mean:+.2f} points, 90% interval "
                                     "{low:+.2f} to {high:+.2f}, {seeds} seeds", row)
                           for row in tested) or "—",
        "verdict": "reproduced" if tested and all(row["replicated"] for row in tested) else
                   "not settled: an interval is not within ±1 point"}
    text = (Path(__file__).parent / "reproduction.md").read_text(encoding="utf-8")
    text = "|".join(formatted(cell, values) if "{" in cell else cell for cell in text.split("|"))
    return re.sub(r"\| ?— ?\|[^|\n]*", "| — | not measured ", text)      # no figure, no verdict


def paper(records: dict) -> Table:
    """Every published figure: its formula, what the formula gives, and what was measured here."""
    values = values_of(records)
    rows = [(line, values) for line in re.split(r"\n(?! )", ROWS.strip())]
    return Table("Every figure that the paper publishes, and those it leaves out.",
                 ["figure", "published", "formula", "computed", "measured here"],
                 [[formatted(" ".join(cell.split()), of) for cell in line.split("|")]
                  for line, of in rows + [(TILE_ROW, costs) for costs in values["tiles"]]])
