"""What the tables say, in sentences.

Each sentence is computed and carries n, interval and baseline. They are worded to be true of any model, one that knows
nothing included. The rules are the same throughout, and stand in the sentences:

- a share is *above* a baseline if the lower end of its 95 % interval is above the baseline (above its upper end, where
  the baseline was itself measured);
- two shares *differ* if their intervals do not overlap; a fall that is not measured is not called zero;
- what leads (*most*, *best*, *largest*) is told with all that cannot be told apart from it: by the interval of the
  difference on the same subjects where the table has it (the columns `behind`), by intervals that do not overlap elsewhere;
- what is counted or named does a hundredth of the whole effect or more (`least.py`), and a share says of what.

The first sentence of each list is the one that the summary of the page shows. Each experiment says its own sentences
(`sentences` in experiments/<name>/show.py); here is what several of them share.
"""
