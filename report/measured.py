"""The tables of reproduce_tables.py, each made of JSON records from results/; no file is opened."""

import math
from statistics import mean, stdev

from utils import analysis
from utils.artifacts import RUNS as SCRIPTS
from utils.runs import TITLES as NETWORKS
from utils.tables import Table

DATASETS = {"cifar10-jpeg": "CIFAR-10 (JPEG)", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
ENTRIES, FEATURES, CIFAR = 3 * 32 * 32, 64 * 32 * 32, 60_000      # VGG-16 on CIFAR, as the paper
HE_BYTES = 1236 * 2 ** 20           # GAZELLE's traffic per inference (USENIX Security 2018)


def dataset(name: str) -> str:
    return DATASETS.get(name, name)


def setting(run: dict) -> tuple:
    """What runs must agree in to be compared: data set, network, training images, epochs, ..."""
    p = run["parameters"]
    return (dataset(run["data"]["dataset"]), p["model"].upper().replace("VGG", "VGG-"),
            run["data"]["train_images"], p["epochs"],
            *(p[key] for key in ("schedule", "lr", "dropout", "batch_size", "momentum")))


def setting_title(key: tuple) -> str:
    return f"{key[0]}, {key[1]}, {grouped(key[2])} images, {key[3]} epochs"


def grouped(number: float) -> str:
    """10000 as 10 000."""
    return f"{number:,.0f}".replace(",", " ")


def is_usual(run: dict, kappas: tuple = (1,)) -> bool:
    """Whether a run is plain, or on images morphed as in the paper: uniform core, no padding."""
    data = run["data"]
    return run["run"] == "pretrained" or (
        data["kappa"] in kappas and data["morph_distribution"] == "uniform"
        and data["image_padding"] == 0)


def spread(values: list[float]) -> str:
    """Accuracies in percent: the mean, and of several the deviation between seeds."""
    if len(values) == 1:
        return f"{100 * values[0]:.2f}%"
    return f"{100 * mean(values):.2f} ± {100 * stdev(values):.2f}%, {len(values)} seeds"


def on(machine: dict) -> str:
    devices = machine.get("cuda") or []
    return ", ".join(devices) if devices else f"{machine['cores']} cores of {machine['processor']}"


def accuracy_table(runs: list[dict]) -> Table:
    """Test accuracy of each network in each setting; a missing one names its command."""
    runs, rows = [run for run in runs if is_usual(run)], []
    for key in sorted({setting(run) for run in runs}, reverse=True):
        here = [run for run in runs if setting(run) == key]
        cells = [[run["accuracy"] for run in here if run["run"] == name] for name in NETWORKS]
        schedule, lr, dropout = key[4:7]
        rows.append([f"{setting_title(key)}, {schedule} {lr:g}, dropout {dropout:g}", *(
            spread(cell) if cell else f"not run: `python {SCRIPTS[name]} …`"
            for name, cell in zip(NETWORKS, cells, strict=True))])
    return Table("Test accuracy after the last epoch, κ = 1, uniform core. The standardised "
                 "control has each entry of the morphed images brought to mean 0 and deviation 1.",
                 ["setting", *NETWORKS.values()], rows,
                 "± is the standard deviation between seeds. Where a run is missing stands its "
                 "command, … for the options of the row's other runs.")


def runs_table(runs: list[dict]) -> Table:
    """Each training run with its command."""
    order = list(NETWORKS)
    runs = sorted(runs, key=lambda r: (-r["data"]["train_images"], r["data"].get("kappa", 0),
                                       order.index(r["run"]), r["seed"]))
    rows = [[NETWORKS[r["run"]], str(r["data"].get("kappa", "")), str(r["seed"]),
             f"{r['accuracy']:.2%}", f"{r['seconds'] / 60:.0f}", f"`{r['command']}`"] for r in runs]
    versions = sorted({(r["versions"]["torch"], r["versions"]["torchvision"]) for r in runs})
    return Table("Every training run.", ["network", "κ", "seed", "accuracy", "minutes", "command"],
                 rows, "Measured with torch and torchvision " +
                 " or ".join(" and ".join(pair) for pair in versions) +
                 f" on {', '.join(sorted({on(r['machine']) for r in runs}))}.")


def paper_table(runs: list[dict], records: dict[str, dict]) -> Table:
    """Every published figure: its formula, what the formula gives, and what was measured here."""
    network = analysis.vgg_macs("vgg16", 10)
    first = analysis.convolution_macs(3, 64, 3, 32)
    counted = analysis.likely_published_macs(3, 32, 3, 32)
    composed = analysis.aug_conv_macs(ENTRIES, FEATURES) - first
    sent = analysis.transmission_by_bytes(ENTRIES, FEATURES, CIFAR)
    more = (sent["morphed images"] + sent["Aug-Conv"]) / sent["plain images"] - 1
    best = max(map(setting, runs), key=lambda key: (key[2], key[3]), default=None)
    accuracy = {name: [run["accuracy"] for run in runs if run["run"] == name
                       and setting(run) == best and is_usual(run)] for name in NETWORKS}

    def measured(name: str) -> str:
        if not accuracy[name] or not accuracy["pretrained"]:
            return "not run yet"
        return (f"{spread(accuracy[name])}; plain {spread(accuracy['pretrained'])} "
                f"({setting_title(best)})")

    bench = {row["figure"]: row for row in records.get("bench", {}).get("table", [])}
    attack, he = records.get("attacks"), records.get("he")
    epoch = "epoch with Aug-Conv (reference: plain, here)"
    kept, not_kept = bench.get(epoch), bench.get(epoch.replace(" (", ", features not kept ("))
    files = records.get("delivery")
    none = "—"
    guess = analysis.log10_order_guess(64)
    rows = [
        ["accuracy with Aug-Conv", "“close to pretrain”", "T·C_ac = D·M·M⁻¹·C = D·C", "equal",
         measured("with_ac")],
        ["accuracy without Aug-Conv", "“very low”", none, none, measured("no_ac")],
        ["computation, VGG-16 on CIFAR", "9%",
         "αp²m²n² over the network's multiply-adds, our guess at what was counted",
         f"{counted / 1e6:.1f} M / {network / 1e6:.1f} M = {counted / network:.2%}", none],
        ["computation of the developer", "not published",
         "(αm²·βn² − αβp²n²) over the network's: the dense Aug-Conv in place of the first layer",
         f"{composed / 1e6:.1f} M / {network / 1e6:.1f} M = {composed / network:.1%}",
         f"an epoch takes {not_kept['ratio']:.2f} times a plain one; {kept['ratio']:.2f} times "
         "with Aug-Conv's output kept" if kept and not_kept else none],
        ["computation of the provider", "not published", "αm²·q over the network's, once an image",
         f"{analysis.morphing_macs(ENTRIES) / network:.2%}",
         f"{1000 / bench['morphing, kappa 1']['here']:.2f} ms an image" if bench else none],
        ["data transmission", "5.12%",
         "q·αm² over the data set's entries, 60 000·αm²: a matrix as large as M, which is not sent",
         f"{ENTRIES}/{CIFAR} = {analysis.transmission_by_paper(ENTRIES, ENTRIES, CIFAR):.2%}",
         none],
        ["data transmission, what is sent", "not published", "entries of Aug-Conv, αm²·βn², over "
         "the data set's", f"{analysis.transmission_by_entries(ENTRIES, FEATURES, CIFAR):.0%}",
         none],
        ["data transmission, bytes", "not published", "float32 morphed images and Aug-Conv over "
         "uint8 images", f"{more:.0%} more: {sent['morphed images'] / 1e6:.0f} MB and "
         f"{sent['Aug-Conv'] / 1e6:.0f} MB for {sent['plain images'] / 1e6:.0f} MB",
         f"{files['morphed'] / 1e6:.0f} MB and {files['Aug-Conv'] / 1e6:.0f} MB on disk for "
         f"{grouped(files['images'])} images" if files else none],
        ["chance of an attack's success", "7.9·10⁻⁹⁰", "1/64!, guessing the order of 64 channels",
         analysis.power_of_ten(guess),
         "no guess is needed: {} of {} channels right, images at {:.0f} dB, {:.1f} s".format(
             *(attack["known first layer"][key] for key in ("channels right", "channels", "psnr",
                                                            "seconds"))) if attack else none],
        ["chance to guess the core to 1%", "not published", "P(uniform g within 1% of "
         "uniform x), to the power q²",
         analysis.power_of_ten(analysis.log10_core_guess(ENTRIES, 0.01)),
         f"not needed either: {analysis.pairs_needed(ENTRIES, 1)} known pairs determine it"],
        ["GAZELLE, computation", "10 000×", "could not be derived: published only", none,
         f"{grouped(he['seconds ratio'])}× for CKKS, first layer (table below)" if he else none],
        ["GAZELLE, data", "421 000×", "1236 MiB (GAZELLE, USENIX Security 2018) over 3072 B",
         f"{grouped(HE_BYTES / ENTRIES)}×",
         f"{grouped(he['bytes ratio'])}× 3072 B for CKKS, first layer (table below)"
         if he else none],
        ["GAZELLE, chance of success", "2.9·10⁻³⁰", "could not be derived; 2⁻¹²⁸ has the digits, "
         "so the exponent looks like a slip of the pen",
         analysis.power_of_ten(-128 * math.log10(2)), none],
    ]
    return Table("Every figure that the paper and its README publish, and those they leave out "
                 "(VGG-16 on CIFAR, κ = 1).",
                 ["figure", "published", "formula", "computed", "measured here"], rows)


def kappa_table(record: dict, runs: list[dict]) -> Table:
    """The κ sweep: what a smaller core costs, and what it gives away."""
    rows = []
    network = analysis.vgg_macs("vgg16", 10)
    # Runs at several κ share a setting and a seed; the plain run of both is what they compare with.
    kappas = tuple(point["kappa"] for point in record["sweep"])
    runs = [run for run in runs if is_usual(run, kappas)]
    swept = {(setting(run), run["seed"]) for run in runs if not is_usual(run)}
    runs = [run for run in runs if (setting(run), run["seed"]) in swept]
    plain = [run["accuracy"] for run in runs if run["run"] == "pretrained"]
    for point in record["sweep"]:
        accuracy = [run["accuracy"] for run in runs if run["run"] == "with_ac"
                    and run["data"]["kappa"] == point["kappa"]]
        macs = analysis.morphing_macs(ENTRIES, point["kappa"])
        rows.append([
            str(point["kappa"]), str(point["q"]), f"{macs / 1e6:.2f} M, {macs / network:.2%}",
            str(analysis.pairs_needed(point["q"], point["kappa"])),
            f"{point['condition number']:.1e}", f"{point['error of the features']:.1e}",
            f"{point['ssim']:.3f}", f"{point['psnr']:.1f} dB",
            spread(accuracy) if accuracy else "not run"])
    where = " and ".join(sorted({setting_title(key) for key, _ in swept}))
    seeds = ", ".join(str(seed) for seed in sorted({seed for _, seed in swept}))
    return Table(
        f"What κ changes ({record['parameters']['morph_distribution']} core, images 3×32×32).",
        ["κ", "q", "multiply-adds to morph an image, of VGG-16's", "pairs that give the core",
         "condition number", "error of the features", "SSIM", "PSNR", "accuracy with Aug-Conv"],
        rows, f"`{record['command']}`, {record['images']} test images of "
        f"{dataset(record['images of'])}. SSIM and PSNR compare morphed "
        "images, stretched to the range of pixels, with plain ones." + (
            f" Accuracies: {where}, seed {seeds}; plain {spread(plain)}." if plain else ""))


def he_table(record: dict) -> Table:
    """The first layer on encrypted images, and through MoLe, in one run."""
    rows = [[row["way"], f"{1000 * row['seconds']:.3g} ms", f"{row['seconds ratio']:.3g}×",
             grouped(row["bytes"]), f"{row['expansion']:.3g}×", f"{row['largest error']:.1e}"]
            for row in record["table"]]
    return Table("One first layer, 3→64, 3×3, on a 32×32 image: CKKS against MoLe, per image.",
                 ["way", "time", "over the plain layer", "bytes sent", "over 3072 B",
                  "largest error"], rows, record["note"] +
                 f" The fastest CKKS takes {record['seconds over MoLe']:.0f} times MoLe's time and "
                 f"{record['bytes over MoLe']:.0f} times its bytes. "
                 f"`{record['command']}` on one core of {record['machine']['processor']}, "
                 f"TenSEAL {record['versions']['tenseal']}.")


def bench_table(bench: dict) -> Table:
    """The benchmark's rows: the reference's algorithm and this program, in one run."""
    rows = [[row["figure"], f"{row['reference']:.4g} {row['unit']}",
             f"{row['here']:.4g} {row['unit']}", f"{row['ratio']:.3g}",
             "" if "target" not in row else
             f"{row['target']}: {'reached' if row['reached'] else 'missed'}"]
            for row in bench["table"]]
    return Table("Speed.", ["figure", "reference's algorithm", "here", "ratio", "target"], rows,
                 f"`{bench['command']}` on {on(bench['machine'])}.")


def attack_table(attack: dict) -> Table:
    """What came back in one attack on the project's own delivery."""
    def scored(report):
        if "psnr" not in report:
            return "nothing", ""
        return (f"{report['psnr']:.0f} dB, SSIM {report['ssim']:.3f}",
                f"{report['exact']:.0%} of the values exact")

    known, blind, alone = (attack[k] for k in ("known first layer", "blind", "data only"))
    rows = [["the paper's count: guess the order of 64 channels",
             f"chance {analysis.power_of_ten(analysis.log10_order_guess(64))}", "", ""],
            ["first layer known (the developer trained it)", *scored(known),
             f"{known['seconds']:.1f} s, {known['channels right']} of {known['channels']} "
             "channels"],
            ["blind: first layer unknown", *scored(blind), f"{blind['seconds']:.1f} s"]]
    for point in attack["known pairs"]:
        rows.append([f"{point['pairs']} known pairs, no Aug-Conv ({point['least']} determine the "
                     "core)", *scored(point), f"{point['seconds']:.1f} s"])
    rows.append(["morphed images alone, no Aug-Conv", *scored(alone), f"{alone['seconds']:.1f} s"])
    search = attack["seed search"]
    return Table(
        "Attacks on the project's own delivery.", ["attack", "images", "", ""], rows,
        f"`{attack['command']}`, {attack['images']} test images, "
        f"{attack['data']['morph_distribution']} core, on {on(attack['machine'])}. A core drawn "
        f"from a {search['bits']}-bit seed at q = {search['q']} was "
        f"{'found' if search['found'] else 'not found'} by trying all seeds; 2³² seeds at q = "
        f"{search['full q']} would take one process {search['years for 2^32']:.1f} years. Cores "
        f"here are drawn from {search['bits of entropy here']} bits.")


def repairs_table(attack: dict, trained: dict | None) -> Table:
    """Changes of Aug-Conv that were hoped to resist, what came back, and whether training survives.

    `trained`: the record of benchmarks/repairs.py, if there is one.
    """
    def images(report):
        if not report:
            return "not tried"
        return f"{report['psnr']:.0f} dB" if "psnr" in report else "failed"

    accuracy = {} if trained is None else {
        (row["repair"], row["strength"]): f"{row['accuracy']:.1%}" for row in trained["table"]}
    rows = [["none", "0", "", "", accuracy.get(("none", 0.0), "not run")]]
    for repair in attack["repairs"]:
        known = repair.get("known first layer, denoised", repair["known first layer"])
        name = repair["repair"].replace("_", " ")
        name += f" {repair['strength']:g}" if repair["strength"] else ""
        rows.append([name, f"{repair.get('error of the features', 0):.2g}", images(known),
                     images(repair["blind"].get("up to colour", repair["blind"])),
                     accuracy.get((repair["repair"], repair["strength"]), "not run")])
    note = (f"Attacks: `{attack['command']}`, {attack['data']['morph_distribution']} core. Noise "
            "is relative to Aug-Conv's entries, channels are those kept of 64. Where signs, scales "
            "or mixing keep the known filters from fitting, the images are the blind attack's.")
    if trained is not None:
        note += (f" Accuracy: `{trained['command']}`, {trained['data']['train_images']} images of "
                 f"{dataset(trained['data']['dataset'])}, {trained['parameters']['model']}, "
                 f"{trained['parameters']['epochs']} epochs, "
                 f"{trained['data']['morph_distribution']} core.")
    return Table("Repairs of Aug-Conv.",
                 ["repair of Aug-Conv", "error of the features", "first layer known",
                  "blind, up to colours", "accuracy with Aug-Conv"], rows, note)


def matrix_table(attacks: list[dict]) -> Table:
    """The two attacks through Aug-Conv over cores, geometries and first layers."""
    rows = [[a["first layer"], a["data"]["morph_distribution"], str(a["data"]["kappa"]),
             str(a["data"]["image_padding"]),
             f"{a['known first layer']['channels right']} of {a['known first layer']['channels']}",
             f"{a['known first layer']['psnr']:.0f} dB", f"{a['blind']['psnr']:.0f} dB"]
            for a in attacks]
    return Table("The attacks over cores, geometries and first layers.",
                 ["first layer", "core", "κ", "padding", "channels right", "known layer", "blind"],
                 sorted(rows))


def stress_table(stress: dict) -> Table:
    """Cases of each stress test, and how many ended as they must."""
    rows = [[test, str(counts.get("cases", "skipped")),
             ", ".join(f"{n} {what.replace('_', ' ')}" for what, n in counts.items()
                       if what != "cases")]
            for test, counts in stress["counts"].items()]
    return Table("Interruption, damage and hostile files.",
                 ["what was done to the steps", "cases", "outcome"], rows,
                 f"`make stress`, {stress['seconds'] / 60:.0f} minutes on {on(stress['machine'])}.")
