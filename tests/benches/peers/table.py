"""The figures, as Markdown."""

import statistics

COLUMNS = (
    ("publish, one by one", "one"),
    ("publish, pipelined", "many"),
    ("run, 1 slot", "run_one"),
    ("run, at its best", "run_best"),
    ("RPC, 1 in flight", "rpc_one"),
    ("RPC, 64 in flight", "rpc_many"),
)
EXTRA = ["RPC, 1 in flight: p50, ms", "p99, ms", "CPU µs of a client for a publish", "CPU µs of a worker for a run"]


def spread(values, digits=0):
    """The median with the least and the greatest."""
    if not values:
        return "–"
    one, least, greatest = statistics.median(values), min(values), max(values)
    if len(values) == 1:
        return f"{one:.{digits}f}"
    return f"{one:.{digits}f} ({least:.{digits}f}–{greatest:.{digits}f})"


def figures(rounds, name, place=0):
    return [found[name][place] for found in rounds if isinstance(found.get(name), tuple)]


def shares(rounds, firsts, name):
    """Each round by itself, so that what disturbs it disturbs both."""
    pairs = [(found.get(name), first.get(name)) for found, first in zip(rounds, firsts)]
    return [one[0] / other[0] for one, other in pairs if isinstance(one, tuple) and isinstance(other, tuple)]


def marked(contender, name, cell):
    """Publishes that nobody confirms are marked."""
    return cell if contender.confirms or name not in ("one", "many") else f"{cell} †"


def show(place, contenders, samples):
    """Prints the table of one kind of broker, what each row does beside the first, and what failed."""
    all_rounds = {contender.name: samples.get((contender.name, contender.place), []) for contender in contenders}
    print(f"\n### {place}\n")
    titles = [title for title, _ in COLUMNS]
    print(f"| jobs/s | {' | '.join(titles + EXTRA)} |")
    print("|---" * (1 + len(titles + EXTRA)) + "|")
    for contender in contenders:
        rounds = all_rounds[contender.name]
        cells = [marked(contender, name, spread(figures(rounds, name))) for _, name in COLUMNS]
        cells += [spread(figures(rounds, "rpc_one", which), 2) for which in (1, 2)]
        cells += [spread(figures(rounds, "one", 1)), spread(figures(rounds, "run_best", 1))]
        print(f"| {contender.name}; {contender.worker_best[0]} | " + " | ".join(cells) + " |")

    first = contenders[0].name
    print(f"\n| {first} = 1 | {' | '.join(titles)} |")
    print("|---" * (1 + len(titles)) + "|")
    for contender in contenders[1:]:
        parts = [(name, shares(all_rounds[contender.name], all_rounds[first], name)) for _, name in COLUMNS]
        cells = [marked(contender, name, spread(part, 2)) for name, part in parts]
        print(f"| {contender.name} | " + " | ".join(cells) + " |")

    print()
    if not all(contender.confirms for contender in contenders):
        print("† given to the client's own buffer: nothing says when the broker has it.\n")
    reasons = {
        f"{contender.name}, {title}: {found[name]}"
        for contender in contenders
        for found in all_rounds[contender.name]
        for title, name in COLUMNS
        if isinstance(found.get(name), str) and found[name] != "cannot"
    }
    for reason in sorted(reasons):
        print(f"- {reason}")
