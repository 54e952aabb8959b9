"""The losses, and the one step that computes them together.

A further loss, such as VQA's answers or SNLI-VE's and NLVR2's classes, takes:

1. a head in `model/heads.py`, a flag for it in `Heads`, and its construction in `BridgeTower.__init__`;
2. its weight in `config.ObjectiveConfig`, and a line in `joint.needed_heads`;
3. what it reads of a pair in `pairs.Needs`: pooled pairs for a class, places in the text for words;
4. a file here with the loss, a sum over the pairs of a micro-batch, and its line in `JointTask.forward`, which divides it
   by the step's total; a count of its own, if it has one, joins `JointTask.counts`;
5. the head's name in `training.optim.HEADS`, for its learning rate;
6. its labels in `data.batch.Batch`, filled by `data.dataset` from the record's json (`Record.meta`).

What only evaluates needs none of that: `evaluation.predictor.Predictor` answers for images and texts, and
`evaluation.trained.load_run` gives one. A new experiment is a file in `configs/experiment`.
"""
