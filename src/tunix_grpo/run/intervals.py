"""When something is done that is not done after every step."""


def due(step: int, every: int, last_step: int) -> bool:
    """Says whether something that is done every so many steps, and after the last one, is done after this one."""
    return step % every == 0 or step == last_step
