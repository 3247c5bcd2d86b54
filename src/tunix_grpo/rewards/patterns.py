"""Regular expressions on what a model or a service wrote: none takes longer than its limit.

The package `regex` is asked, since the standard library's `re` cannot be stopped: a pattern such as `(\\w+\\s?)*$`
takes longer than anybody waits on some texts.
"""

import regex

from tunix_grpo.errors import UserError


def compiled(pattern: str, setting: str) -> regex.Pattern[str]:
    """Returns a pattern that a setting gives.

    Raises:
        UserError: it is none.
    """
    try:
        return regex.compile(pattern)
    except (regex.error, OverflowError, RecursionError) as error:
        raise UserError(f"{setting}={pattern}: is no regular expression ({error}); mend it") from None
