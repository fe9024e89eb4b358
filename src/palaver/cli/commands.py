"""What the command line has, as plain values: the help is told from them without importing what reads command lines."""

# Nothing is imported here, so that `palaver --help` is there at once.

LOOK, KEEP, TEND, GLOBAL = "Look", "Take and remove", "Tend", "Global options"
COMMANDS = (
    ("demo", LOOK, "Make a database of real conversations to look at."),
    ("show", LOOK, "Print a whole conversation or message, with every step of every answer."),
    ("search", LOOK, "Search what was said."),
    ("query", LOOK, "Read records through a declared index."),
    ("stats", LOOK, "Sum up usage, cost, latency, feedback and metrics; show the servers' figures."),
    ("presence", LOOK, "Show who is active where."),
    ("tail", LOOK, "Follow messages and calls as they are written."),
    ("export", KEEP, "Write records to files, whole, with a manifest."),
    ("purge", KEEP, "Erase everything about a person, or about people long inactive."),
    ("schema", TEND, "Look at the schema and what is wrong with it."),
    ("migrate", TEND, "Plan and apply what a changed schema does to the database."),
    ("copy", TEND, "Copy a whole stack into another one, while the application goes on."),
    ("flags", TEND, "Look at and set the application's flags."),
    ("limits", TEND, "Look at rate limits, and what they leave whom."),
    ("sessions", TEND, "List and end the sessions of a user."),
    ("config", TEND, "Show every setting and what set it."),
    ("keys", TEND, "Make, count and rotate the keys secrets are sealed with."),
    ("doctor", TEND, "Examine the database and say what to do."),
    ("health", TEND, "Ask every part of the stack how it is."),
    ("sweep", TEND, "Delete expired records, finish cascades, remove released objects."),
    ("work", TEND, "Run projections and upkeep until stopped."),
    ("completion", TEND, "Have your shell complete commands and options."),
    ("version", TEND, "Print versions."),
)
"""Name, group, and what it is for."""
FAMILIES = frozenset(("completion", "config", "flags", "keys", "limits", "migrate", "schema", "sessions"))
"""Commands that have commands of their own."""

OPTIONS = {
    "url": ("--url, -u STR", "The database; default PALAVER_URL, palaver.toml, ./palaver.db."),
    "schema": ("--schema STR", "Where the schema is declared: module:NAME."),
    "blueprint": ("--blueprint STR", "Use the schema of a shipped blueprint."),
    "tenant": ("--tenant STR", "Whose data, where the schema has tenants."),
    "profile": ("--profile STR", "Use a [profile.NAME] of palaver.toml."),
    "json": ("--json", "Write JSON, as it does where stdout is no terminal."),
    "human": ("--human", "Write for people everywhere."),
    "quiet": ("--quiet, -q", "Write data and errors only."),
    "yes": ("--yes, -y", "Answer yes to every question."),
    "no_color": ("--no-color", "Write without colours, as NO_COLOR does."),
    "verbose": ("--verbose, -v", "Say on stderr what is done, on which stack, and when."),
    "timeout": ("--timeout FLOAT", "End with exit code 6 after so many seconds."),
    "describe": ("--describe", "Print the commands, or those named, as JSON; run nothing."),
    "debug": ("--debug", "Print the traceback of a failure."),
}
"""How each global option is written, and what it says."""
ABOUT = "Palaver, the data layer for conversational AI."
FLAGS = tuple(word.strip(",") for written, _ in OPTIONS.values() for word in written.split() if word.startswith("--"))


def help_text() -> str:
    """Return what `palaver --help` prints: the groups in their order, the commands of each by name."""
    lines = ["Usage: palaver COMMAND [OPTIONS]", "", ABOUT, "", "Commands:"]
    lines += ["  --help, -h: Display this message and exit.", "  --version: Display application version."]
    for group in (LOOK, KEEP, TEND):
        lines += ["", f"{group}:", *(f"  {name}: {about}" for name, of, about in sorted(COMMANDS) if of == group)]
    lines += ["", f"{GLOBAL}:", *(f"  {written}: {about}" for written, about in OPTIONS.values())]
    return "\n".join(lines) + "\n"
