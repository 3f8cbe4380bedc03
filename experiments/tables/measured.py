"""Tables of what attacks, experiments and tests measured, each made of its record in results/."""

from experiments.tables.formulas import morphing_macs, pairs_needed, vgg_macs
from experiments.tables.tables import Table, formatted, table


def direct(name: str, title: str, keys: str, note: str = "`{command}` on {on}."):
    """Makes a table of a record as it is."""
    def made(records: dict) -> Table:
        record = records[name]
        return table(title, record.get("table", [record]), keys, formatted(note, record))
    return made


bench = direct("bench", "Speed, beside the reference's algorithm.",
               "figure unit reference here ratio target reached")
he = direct("he", "One first layer, 3→64, 3×3, on a 32×32 image: CKKS against MoLe, per image.",
            "way seconds seconds_ratio bytes expansion largest_error",
            "{note} The fastest CKKS takes {seconds_over_mole:.0f} times MoLe's time and "
            "{bytes_over_mole:.0f} times its bytes. `{command}` on one core of "
            "{machine[processor]}, TenSEAL {versions[tenseal]}.")
stress = direct("stress", "Interruption, damage and hostile files.", "test cases outcomes",
                "`{command}`, {seconds:,} seconds on {on}.")
inputs = direct("inputs", "Image files and folders of all kinds.",
                "cases right_pixels refused_in_one_line", "`python -m tests.inputs`.")
agreement = direct("agreement", "Equal predictions of the plain network and of its own later "
                   "layers behind Aug-Conv.",
                   "morph_distribution kappa tile delivery_dtype equal images")


def attack_matrix(records: dict) -> Table:
    """Every row of the matrix; in the README what an adversary gets, by κ and tile."""
    note = formatted("`{command}` on {on}; first layers untrained.", records["attack_matrix"])
    rows = [row | {"pairs_needed": row["known_pairs"][-1]["least"]} if "known_pairs" in row else row
            for row in records["attack_matrix"]["table"]]
    whole = table(
        "The attacks over first layers, cores, κ or tiles, and dtypes.", rows,
        "dataset image_size model first_layer morph_distribution kappa tile delivery_dtype private "
        "known_first_layer.order_from known_first_layer.channels_right known_first_layer.psnr "
        "known_first_layer.left_open blind.psnr blind.up_to_colour.psnr blind.left_open "
        "blind.failed data_only.psnr data_only.ssim data_only.reidentified pairs_needed "
        "inverse_training.psnr inverse_training.unexplained seconds", note)
    return whole._replace(short=protection(rows, note))


def protection(rows: list[dict], note: str) -> Table:
    """A row for each κ and tile that was attacked with 10 000 images, and its cores side by side:
    the worst PSNR with Aug-Conv; PSNR and re-identified images without; pairs that suffice."""
    found: dict[str, dict] = {}
    for row in rows:
        if row["private"] == 10_000 and "data_only" in row and row["delivery_dtype"] == "float32":
            blocks = f"s = {row['tile']}" if row["tile"] else f"κ = {row['kappa']}"
            found.setdefault(blocks, {})[row["morph_distribution"]] = row
    form = "{data_only[psnr]:.1f} dB, {data_only[reidentified]:.1%}"
    lines = [[blocks, *(f"{min(core[key]['psnr'] for core in cores.values()):.0f} dB"
                        for key in ("known_first_layer", "blind")),
              *(formatted(form, cores.get(core, {})) for core in ("orthogonal", "normal",
                                                                  "uniform")),
              formatted("{pairs_needed:,}", cores.get("orthogonal", {}))]
             for blocks, cores in found.items()]
    return Table("What an adversary gets.", [
        "blocks", "Aug-Conv, first layer known", "Aug-Conv, blind", "images alone, orthogonal core",
        "normal", "uniform", "known pairs that determine the core"], lines, note)


def attack(records: dict) -> Table:
    """What came back in one attack on the project's own delivery."""
    record = records["attacks"]
    rows = [{"attack": "first layer known, by its developer"} | record["known_first_layer"],
            {"attack": "blind: first layer unknown"} | record["blind"],
            {"attack": "morphed images alone, no Aug-Conv"} | record["data_only"],
            *({"attack": f"{point['pairs']} known pairs ({point['least']} determine the core)"}
              | point for point in record["known_pairs"])]
    return table("Attacks on the project's own delivery.", rows,
                 "attack psnr ssim exact reidentified seconds channels_right", formatted(
        "`{command}`, {images} test images, {data[morph_distribution]} core, on {on}. Exact: 8-bit "
        "values that come back.", record))


def kappa(records: dict) -> Table:
    """The κ sweep: what a smaller core costs, and what it gives away."""
    points = [point | {
        "share": morphing_macs(3072, point["kappa"]) / vgg_macs("vgg16", 10),
        "pairs_needed": pairs_needed(point["q"], point["kappa"])}
        for point in records["kappa"]["sweep"]]
    note = formatted("`{command}`, {parameters[morph_distribution]} cores, {images} images of "
                     "{images_of}. Share: multiply-adds of morphing, of VGG-16's. SSIM, PSNR: "
                     "morphed images, stretched to pixels' range, and plain.", records["kappa"])
    return table("What κ changes.", points, "kappa q share pairs_needed error_of_the_features ssim "
                 "psnr condition_number", note)


def repairs(records: dict) -> Table:
    """Changes of Aug-Conv that were hoped to resist, what came back, and how training does."""
    return table("Repairs of Aug-Conv.", records["repairs"]["table"], "repair strength "
                 "error_of_the_features known_first_layer.psnr known_first_layer_denoised.psnr "
                 "blind.up_to_colour.psnr accuracy", formatted(
        "`{command}` on {case[dataset]}, κ = {case[kappa]}, {case[morph_distribution]} core. "
        "Strength: of noise relative to Aug-Conv's entries; channels kept. Accuracy: of "
        "{parameters[model]} on {train_images} images.", records["repairs"]))
