"""Numbers as a person reads them."""


def format_count(count: int) -> str:
    """Shows a count: 3,738 in full, from a million on as 268.1 M."""
    for size, unit in ((10**12, "T"), (10**9, "B"), (10**6, "M")):
        if abs(count) >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:,}"


def format_bytes(num_bytes: float) -> str:
    """Shows a size in decimal units: 512 B, 1.6 MB, 80.0 GB."""
    for size, unit in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes:.0f} B"


def format_duration(seconds: float) -> str:
    """Shows a time span: 0.35 s, 42 s, 1:23 (minutes), 2:03:04 (hours), 1 d 2:03:04."""
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    return f"{seconds:.0f} s" if seconds < 59.5 else format_clock(seconds)


def format_clock(seconds: float) -> str:
    """Shows a time span as a clock does, in whole seconds: 0:05, 1:23, 2:03:04."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if not hours:
        return f"{minute}:{second:02}"
    days, hour = divmod(hours, 24)
    clock = f"{hour}:{minute:02}:{second:02}"
    return f"{days} d {clock}" if days else clock


def format_percent(share: float) -> str:
    """Shows a share: 65.3%."""
    return f"{share:.1%}"
