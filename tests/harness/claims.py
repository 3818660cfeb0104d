"""Generated claims: texts, and ways to write a user's id, well and badly."""

import uuid

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from harness.entries import ALICE, BOB

CASES = settings(max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck))
# The texts that a setting can hold: those without NUL and lone surrogates.
text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
users = st.sampled_from([ALICE, BOB])


@st.composite
def notations(draw):
    """A user's id as it can be written, well and badly."""
    user = draw(users)
    return draw(st.sampled_from([
        user, user.upper(), user.replace("-", ""), "{%s}" % user, "{%s}" % user.replace("-", ""), "urn:uuid:" + user, f" {user}", f"{user} ",
        f"{user}\n",
        user[:-1], user + "0", user[:4] + "-" + user[4:], user.replace("-", "", 1), "{" + user, user + "}", user.replace("-", "‐"),
        user.replace("0", "０"), user.replace("a", "а"), user.replace("-", "_"), "(%s)" % user, f"{user},{BOB}", f"'{user}'", f"{user}' OR true --",
        "0x" + user.replace("-", ""), str(uuid.UUID(user).int), user.replace("0", "O"), f"{user}\\", "\ufeff" + user, "null", ""]))
