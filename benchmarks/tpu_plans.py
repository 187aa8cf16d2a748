"""Plans of every size on every TPU generation, settled by the TPU compiler, as a page: docs/tpu.md.

    python -m benchmarks.tpu_plans            # what is not in benchmarks/results/tpu/ yet, then the page
    python -m benchmarks.tpu_plans --part 1 2 # every second pair, for two processes at once
    python -m benchmarks.tpu_plans --page     # the page alone

Each pair takes half a minute to three on one core.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "tpu"
PAGE = ROOT / "docs" / "tpu.md"
SIZES = ("xxs", "xs", "s", "m", "l", "xl")
TOPOLOGIES = ("v4:2x2x1", "v5e:4x4", "v5p:4x4x4", "v6e:16x16")  # 4 to 256 chips
PAIRS = [
    *((f"pagnol_{size}", topology, 1) for topology in TOPOLOGIES for size in SIZES),
    ("pagnol_xl", "v6e:4x4", 1),
    ("pagnol_xl", "v5p:2x2x1", 1),
    ("pagnol_xl", "v4:4x4x4", 1),
    ("pagnol_xl", "v5e:16x16", 1),
    ("pagnol_xl", "v5e:16x16", 2),
    ("long_m", "v5p:4x4x4", 1),
    ("falcon_7b", "v5e:16x16", 1),
    ("falcon_40b", "v5p:8x8x8", 1),
    ("falcon_180b", "v5p:8x8x16", 1),
    ("bloom_176b", "v5p:8x8x16", 1),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", type=int, nargs=2, default=(1, 1), metavar=("I", "N"))
    parser.add_argument("--only", default="", metavar="TEXT", help="pairs whose name holds it")
    parser.add_argument("--page", action="store_true")
    args = parser.parse_args()
    part, parts = args.part
    for number, pair in enumerate(PAIRS):
        if not args.page and number % parts == part - 1 and args.only in " ".join(map(str, pair)):
            run(*pair)
    PAGE.write_text(page(read()), encoding="utf-8")


def path(name: str, topology: str, slices: int) -> Path:
    """Where the figures of a pair are kept."""
    return RESULTS / f"{name}_{topology.replace(':', '_')}{f'_{slices}_slices' if slices > 1 else ''}.json"


def run(name: str, topology: str, slices: int) -> None:
    """Plans one pair in a process of its own, unless its figures are there."""
    output = path(name, topology, slices)
    if output.exists():
        return
    RESULTS.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pagnol_jax", "tpu", "plan", "--gin_file", f"runs/{name}.gin"]
    # Where the step is bound by its products any layout that fits will do; on v6e others bind, and choosing pays.
    compiles = 3 if topology.startswith("v6e") else 1
    command += ["--topology", topology, "--num_slices", str(slices), "--compiles", str(compiles), "--json", str(output)]
    print(name, topology, slices, flush=True)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr.replace("\r", "\n").strip().splitlines()[-1], flush=True)


def read() -> list[dict[str, Any]]:
    """The figures of every pair that has been planned, in order."""
    found = []
    for name, topology, slices in PAIRS:
        if path(name, topology, slices).exists():
            found.append({"name": name} | json.loads(path(name, topology, slices).read_text(encoding="utf-8")))
    return found


WORDS = {"compute": "products", "hbm": "HBM", "ici": "links", "dcn": "network"}
TITLES = {"pagnol": "PAGnol-{}", "long": "PAGnol-{}, long", "falcon": "Falcon-{}", "bloom": "BLOOM-{}"}


def title(name: str) -> str:
    """'pagnol_xl' -> 'PAGnol-XL'."""
    family, size = name.split("_")
    return TITLES[family].format(size.upper())


def figure(size: float) -> str:
    """5,185; 8.3; 0.03."""
    return f"{size:,.0f}" if size >= 10 else f"{size:.1f}" if size >= 1 else f"{size:.1g}"


def row(plan: dict[str, Any]) -> str:
    """A line of the table."""
    mesh = " × ".join(f"{axis} {size}" for axis, size in plan["mesh"].items() if size > 1) or "one chip"
    slices = f" × {plan['num_slices']}" if plan["num_slices"] > 1 else ""
    sent: dict[str, float] = {}
    for entry in plan["traffic"]:
        axes = "+".join(entry["axes"])
        sent[axes] = sent.get(axes, 0) + entry["bytes"]
    least = max(sent.values(), default=0) / 100
    largest = [(axes, size / 1e9) for axes, size in sorted(sent.items(), key=lambda item: -item[1]) if size >= least]
    traffic = ", ".join(f"{axes} {figure(size)}" for axes, size in largest)
    times = plan["roofline_seconds"]
    second = sorted(times, key=times.get)[-2]
    cells = [
        title(plan["name"]),
        f"{plan['topology']}{slices}",
        plan["chips"],
        mesh,
        f"{plan['batch_size']:,} × {plan['length']:,}",
        f"{plan['tokens_per_chip']:,.0f}",
        plan["microbatches"],
        plan["remat"] or "none",
        f"{plan['peak_bytes'] / 1e9:.1f} / {plan['memory_bytes'] / 1e9:.0f}",
        f"{plan['flops_ratio']:.2f}",
        figure(plan["hbm_bytes"] / 1e9),
        traffic or "–",
        f"**{plan['mfu_bound']:.0%}**",
        f"{WORDS[plan['binds']]} (then {WORDS[second]}, {times[second] / times[plan['binds']]:.0%})",
        f"{plan['compile_seconds']:.0f}",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


COLUMNS = {
    "model": "---",
    "topology": "---",
    "chips": "--:",
    "mesh": "---",
    "batch": "---",
    "tokens a chip, microbatch": "--:",
    "micro-batches": "--:",
    "remat": "---",
    "HBM peak / there, GB": "---",
    "compiled / model FLOPs": "--:",
    "HBM traffic, GB": "--:",
    "sent, GB, by axes": "---",
    "MFU bound": "--:",
    "binds": "---",
    "compiled in, s": "--:",
}


def page(plans: list[dict[str, Any]]) -> str:
    """docs/tpu.md."""
    versions = plans[0]["versions"] if plans else {}
    told = ", ".join(f"{name} {versions[name]}" for name in ("jax", "jaxlib", "libtpu", "flax") if name in versions)
    head = [f"| {' | '.join(COLUMNS)} |", f"|{'|'.join(COLUMNS.values())}|"]
    table = "\n".join([*head, *map(row, plans)])
    beside = side_by_side()
    return TEMPLATE.format(table=table, versions=told, beside=beside, pairs=len(plans))


def side_by_side() -> str:
    """The table of the XL step with and without its fused parts, if `benchmarks.tpu_memory` has been run."""
    results = RESULTS / "xl_fused_parts.json"
    if not results.exists():
        return ""
    rows = json.loads(results.read_text(encoding="utf-8"))
    head = "| cross-entropy | attention | peak HBM, GB | HBM traffic, GB | fits in 16 GB |\n|---|---|--:|--:|---|"
    lines = [
        f"| {entry['loss']} | {entry['attention']} | {entry['peak_bytes'] / 1e9:.1f} | "
        + (f"{entry['hbm_bytes'] / 1e9:,.0f}" if entry["hbm_bytes"] else "–")
        + f" | {'yes' if entry['fits'] else 'no'} |"
        for entry in rows
    ]
    return BESIDE.format(table="\n".join([head, *lines]))


BESIDE = """
## What the fused parts save

The step of PAGnol-XL on v5e:4x4 (`fsdp 16`, 64 sequences of 2,048 in one pass, four a chip, remat `full`), made by
`python -m benchmarks.tpu_memory`. "Whole" logits are [B, T, V] in float32; plain attention holds blocks of scores.

{table}
"""

TEMPLATE = """\
# The same training step on every TPU topology

<!-- made by `python -m benchmarks.tpu_plans` -->

Each line is the training step that `pagnol train` runs, compiled by the TPU's own compiler for the whole topology, on
a CPU: nothing here was run on a TPU. The mesh, what blocks keep for their gradient (remat) and the number of
microbatches are those that `pagnol tpu plan` chose for the run's batch; the model and its losses stay as they are.

```bash
pip install -e '.[data,tpu]'
pagnol tpu compile --gin_file gin/runs/pagnol_xl.gin --gin_file gin/mesh/fsdp.gin --topology v5e:4x4
pagnol tpu plan --gin_file gin/runs/pagnol_xl.gin --topology v5e:4x4 --output xl_v5e.gin
pagnol train --gin_file xl_v5e.gin            # there
```

{table}

{pairs} pairs; {versions}.

## How to read it

* **HBM peak** is what the compiler reserves on a chip: parameters, moments and batch, temporaries, code.
* **FLOPs** of the model are 6 N for each token (N: all matrices, the projection to the vocabulary among them) plus
  6 L d T for attention over the causal half of T keys. Compiled FLOPs are those of the matrix products in the compiled
  program, loops multiplied, and of attention's kernels by their blocks. Above 1.00 lie the blocks that the diagonal
  cuts, the scores made again for the gradient, and what remat `full` makes again.
* **HBM traffic** adds what every instruction of the program reads and writes outside the chip's own memory, loops
  multiplied, slices as slices, in whole tiles: a head of 64 takes the room of 128. **Sent** is what a chip sends in a
  step over the axes named (a hundredth of the most and up), without what tiles pad.
* The **MFU bound** is the model's FLOPs over the chip's peak, in the longest of four times: matrix products at peak,
  HBM at its bandwidth, links between chips, network between slices, each as if all were free of each other and
  perfectly overlapped. It is a bound: no measurement. Tiles that sizes do not fill (XL's width of 1,600 is twelve and
  a half times 128; a head of 64 half fills a systolic array), latencies, and what does not overlap lie below it.
  Peaks and bandwidths are those of `pagnol_jax/scaling/chips.py`.
* **Binds** names the longest, and the next one as a share of it.
* **v6e** multiplies 4.7 times as fast as v5e and moves twice as much, to HBM and between chips: on 16 chips or 256,
  what blocks keep for their gradient, and heads of 64 in tiles of 128, bind it.

## Sizes that do not divide

PAGnol-XL has 25 heads and a width of 1,600. A tensor axis must be 1, 5 or 25, and an fsdp axis divide 1,600: 64 is
the largest power of two. `pagnol train` and `pagnol tpu compile` refuse other meshes in a line that names the size;
`pagnol tpu plan` lists what it refused and why, and puts the rest of the chips on `data`. Falcon-7B (71 heads, width
4,544) is alike. Vocabularies are padded to a multiple of 128 (`GPTConfig.vocab_multiple`): the extra rows start at
zero, are masked out of the softmax and get no gradient, so the loss is that of the model without them.
{beside}"""


if __name__ == "__main__":
    main()
