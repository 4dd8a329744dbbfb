"""Names of the panels that options stand in on a help screen, in the order of the screen.

Options without a panel stand on top under "Options": the five or so that a beginner needs.

    style: Annotated[str | None, typer.Option(help="...", rich_help_panel=MODEL)] = None
"""

INPUT = "Input"
MODEL = "Model and style"
TRAINING = "Training"
MEASURES = "Evaluation"
OUTPUT = "Output"
LIMITS = "Limits"
HARDWARE = "Speed and hardware"
CLUSTER = "Ray cluster"
ADVANCED = "Advanced"

ALL_PANELS = (INPUT, MODEL, TRAINING, MEASURES, OUTPUT, LIMITS, HARDWARE, CLUSTER, ADVANCED)
