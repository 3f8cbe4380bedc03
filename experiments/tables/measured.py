"""Tables of what attacks, experiments and stress tests measured, each made of its record."""

from experiments.tables.formulas import morphing_macs, pairs_needed, vgg_macs
from experiments.tables.reading import Results, machine_in_words
from experiments.tables.rows import describe_morphing
from experiments.tables.table import Column, Table, table_of_records, write_number

ATTACKED_IMAGES = 10_000            # private images of the rows in the README's table of attacks
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
        AGREEMENT_COLUMNS, rows, f"`{record['command']}` on {machine_in_words(record)}.")


# -- What κ changes

KAPPA_COLUMNS = [
    Column("κ", "kappa"),
    Column("q", "q", "{:,}", "side of the core"),
    Column("share", "share", "{:.2%}", "multiply-adds of morphing, of VGG-16's"),
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
        share = morphing_macs(3072, point["kappa"]) / vgg_macs("vgg16", 10)
        needed = pairs_needed(point["q"], point["kappa"])
        rows.append(point | {"share": share, "pairs_needed": needed})
    note = (f"`{record['command']}`, {record['morph_distribution']} cores, "
            f"{record['images']} images of {record['images_of']}.")
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
                            f"`{record['command']}`.")


def make_stress(results: Results) -> Table:
    record = results.records["stress"]
    rows = []
    for row in record["table"]:
        outcomes = [f"{count} {what.replace('_', ' ')}" for what, count in row["outcomes"].items()]
        rows.append(row | {"outcomes": ", ".join(outcomes)})
    seconds = write_number("{:,}", record["seconds"])
    return table_of_records("Interruption, damage and hostile files.", STRESS_COLUMNS, rows,
                            f"`{record['command']}`, {seconds} seconds on "
                            f"{machine_in_words(record)}.")


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
            f"`{record['command']}` on one core of {record['machine']['processor']}, "
            f"TenSEAL {record['versions']['tenseal']}.")
    return table_of_records(
        "One first layer, 3→64, 3×3, on a 32×32 image: CKKS against MoLe.", HE_COLUMNS,
        record["table"], note)


# -- Speed

def make_bench(results: Results) -> Table:
    """A row for each figure, a column for each processor."""
    benches = list(results.benches.values())
    figures: dict[str, dict] = {}   # a figure's row of the first record that has it
    for record in benches:
        for row in record["table"]:
            figures.setdefault(row["figure"], row)
    rows = []
    for figure, first in figures.items():
        cells = [describe_speed(record, figure) for record in benches]
        rows.append([figure, first["unit"], *cells, first.get("target", "none")])
    header = ["figure", "unit", *map(machine_in_words, benches), "target"]
    commands = "; ".join(f"{machine_in_words(record)}: `{record['command']}`"
                         for record in benches)
    return Table("Speed, beside the reference's algorithm.", header, rows,
                 "Each cell: the reference's algorithm → this program, and their ratio. Medians; "
                 f"a *missed* target says so. {commands}.")


def describe_speed(record: dict, figure: str) -> str:
    row = next((row for row in record["table"] if row["figure"] == figure), None)
    if row is None:
        return "not measured on this machine"
    text = f"{row['reference']:.4g} → {row['here']:.4g} ({row['ratio']:.3g}×)"
    return text if row.get("reached", True) else f"{text}, missed"


# -- Attacks

DELIVERY_COLUMNS = [
    Column("attack", "attack"),
    Column("PSNR", "psnr", "{:.1f} dB", IMAGES_PSNR),
    Column("SSIM", "ssim", "{:.3f}"),
    Column("exact", "exact", "{:.0%}", "8-bit values that come back"),
    Column("re-identified", "reidentified", "{:.1%}", "images whose own plain image is the nearest "
           "of all to what came back", absent="not counted"),
    Column("seconds", "seconds", "{:.2f}"),
    Column("channels right", "channels_right", absent="not used"),
]


def make_attacks(results: Results) -> Table:
    """What came back in one attack on the project's own delivery."""
    record = results.records["attacks"]
    rows = [record["known_first_layer"] | {"attack": "first layer known, by its developer"},
            record["blind"] | {"attack": "blind: first layer unknown"},
            record["data_only"] | {"attack": "morphed images alone, no Aug-Conv"}]
    for point in record["known_pairs"]:
        words = f"{point['pairs']} known pairs ({point['least']} determine the core)"
        rows.append(point | {"attack": words})
    note = (f"`{record['command']}`, {record['images']} test images, "
            f"{describe_morphing(record['data']['morphing'])}, on {machine_in_words(record)}.")
    return table_of_records("Attacks on the project's own delivery.", DELIVERY_COLUMNS, rows, note)


NOT_PLAYED = "not played"
MATRIX_COLUMNS = [
    Column("images", "images", meaning="data set, side, private images that are attacked"),
    Column("first layer", "layer"),
    Column("delivery", "delivery", meaning="core, blocks, dtype"),
    Column("order from", "known_first_layer.order_from", absent=NOT_PLAYED,
           meaning="what gives the order of the channels away, the first layer known"),
    Column("channels right", "known_first_layer.channels_right", absent=NOT_PLAYED),
    Column("known", "known_first_layer.psnr", "{:.1f} dB", "PSNR, first layer known",
           absent=NOT_PLAYED),
    Column("blind", "blind_words", meaning="PSNR, first layer unknown; or why it fails"),
    Column("left open", "left_open", meaning="what these two attacks do not find"),
    Column("alone", "data_only.psnr", "{:.1f} dB", "PSNR, from morphed images alone",
           absent=NOT_PLAYED),
    Column("SSIM", "data_only.ssim", "{:.3f}", "of the same", absent=NOT_PLAYED),
    Column("re-identified", "data_only.reidentified", "{:.1%}", "of the same: images whose own "
           "plain image is the nearest of all", absent=NOT_PLAYED),
    Column("pairs needed", "pairs_needed", "{:,}", "known pairs that determine the core",
           absent=NOT_PLAYED),
    Column("authors' own", "inverse_training.psnr", "{:.1f} dB", "PSNR up to colour, of the attack "
           "in the authors' first code", absent=NOT_PLAYED),
    Column("seconds", "seconds", "{:.0f}", "of all attacks of the row"),
]


def make_attack_matrix(results: Results) -> Table:
    """Every row of the matrix of attacks."""
    record = results.records["attack_matrix"]
    rows = [describe_case(row) for row in record["table"]]
    return table_of_records("The attacks over first layers, cores, κ or tiles, and dtypes.",
                            MATRIX_COLUMNS, rows, note_of_matrix(record))


def note_of_matrix(record: dict) -> str:
    weights = sorted({row["weights"] for row in record["table"]})
    return (f"`{record['command']}` on {machine_in_words(record)}; first layers "
            f"{' and '.join(weights)}.")


def describe_case(row: dict) -> dict:
    """A row of the matrix with the words of its cells."""
    blind = row.get("blind", {})
    blind_words = NOT_PLAYED
    if "psnr" in blind:
        blind_words = f"{blind['psnr']:.1f} dB"
    elif "failed" in blind:
        blind_words = blind["failed"]
    left_open = [row[attack]["left_open"] for attack in ("known_first_layer", "blind")
                 if row.get(attack, {}).get("left_open")]
    words = {
        "images": f"{row['dataset']} {row['image_size']}, " + write_number("{:,}", row["private"]),
        "layer": f"{row['model']}: {row['first_layer']}",
        "delivery": f"{row['morph_distribution']}, {describe_blocks(row)}, {row['delivery_dtype']}",
        "blind_words": blind_words,
        "left_open": "; ".join(dict.fromkeys(left_open)) or (
            "nothing" if "known_first_layer" in row else NOT_PLAYED),
    }
    if "known_pairs" in row:
        words["pairs_needed"] = row["known_pairs"][-1]["least"]
    return row | words


def make_protection(results: Results) -> Table:
    """What an adversary gets, by κ and tile: the cases of 10 000 images in float32."""
    record = results.records["attack_matrix"]
    cases: dict[str, dict[str, dict]] = {}               # by blocks and core
    for row in record["table"]:
        is_shown = (row["private"] == ATTACKED_IMAGES and row["delivery_dtype"] == "float32"
                    and "data_only" in row)
        if is_shown:
            cases.setdefault(describe_blocks(row), {})[row["morph_distribution"]] = row
    rows = [[blocks, *describe_protection(cores)] for blocks, cores in cases.items()]
    header = ["blocks", "Aug-Conv, first layer known", "Aug-Conv, blind",
              *(f"images alone, {core} core" for core in CORES), "known pairs needed"]
    note = ("*Blocks*: κ, copies of the core in *M*, or *s*, the side of tiles. With Aug-Conv: "
            "PSNR of the worst core. Images alone: PSNR, and images whose own plain image is the "
            f"nearest of all. {note_of_matrix(record)}")
    return Table("What an adversary gets.", header, rows, note)


def describe_protection(cores: dict[str, dict]) -> list[str]:
    cells = []
    for attack in ("known_first_layer", "blind"):
        found = [row[attack]["psnr"] for row in cores.values() if "psnr" in row.get(attack, {})]
        cells.append(f"{min(found):.0f} dB" if found else NOT_PLAYED)
    for core in CORES:
        alone = cores.get(core, {}).get("data_only")
        cells.append(f"{alone['psnr']:.1f} dB, {alone['reidentified']:.1%}" if alone
                     else NOT_PLAYED)
    pairs = next((row["known_pairs"] for row in cores.values() if "known_pairs" in row), None)
    cells.append(write_number("{:,}", pairs[-1]["least"]) if pairs else NOT_PLAYED)
    return cells


REPAIR_COLUMNS = [
    Column("repair", "repair"),
    Column("strength", "strength", "{:g}", "of noise, relative to Aug-Conv's entries; of channels, "
           "how many are kept"),
    Column("error of the features", "error_of_the_features", "{:.2g}", "relative",
           absent="none"),
    Column("known", "known_first_layer.psnr", "{:.1f} dB", "PSNR, first layer known",
           absent="not found"),
    Column("denoised", "known_first_layer_denoised.psnr", "{:.1f} dB", "PSNR of the same, where "
           "the attack expects noise", absent="no noise"),
    Column("blind", "blind.up_to_colour.psnr", "{:.1f} dB", "PSNR up to colour, first layer "
           "unknown", absent="not found"),
    Column("accuracy", "accuracy", "{:.2%}", "of a network behind the repaired Aug-Conv"),
]


def make_repairs(results: Results) -> Table:
    record = results.records["repairs"]
    case = record["case"]
    note = (f"`{record['command']}` on {case['dataset']}, κ = {case['kappa']}, "
            f"{case['morph_distribution']} core; {record['model']} on "
            f"{record['train_images']} images.")
    return table_of_records("Repairs of Aug-Conv.", REPAIR_COLUMNS, record["table"], note)


# -- The reference's defects

DEFECT_COLUMNS = [
    Column("training", "change", meaning="what is done as in the reference scripts"),
    Column("accuracy", "accuracy", "{:.2%}", "of the test images after the last epoch"),
    Column("points", "points", "{:+.2f}", "less the first row's"),
    Column("best epoch", "best", "{:.2%}", "what choosing the epoch on the test set would report"),
]


def make_defects(results: Results) -> Table:
    record = results.records["defects"]
    rows = []
    for row in record["table"]:
        points = 100 * (row["accuracy"] - record["table"][0]["accuracy"])
        rows.append(row | {"points": points})
    return table_of_records("What the defects of the reference scripts cost.", DEFECT_COLUMNS, rows,
                            f"`{record['command']}`, {record['setting']}, "
                            f"on {machine_in_words(record)}.")
