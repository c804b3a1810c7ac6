"""The captured step: training steps recorded once as a CUDA graph, then replayed by one launch.

Python checks and packs the launches of an eager step one by one; LeNet's has 12. A graph holds all
launches of up to 16 updates, and one call starts them. This page tells how that works, in the order
in which things happen. In it a step is what is done with one batch; an update takes one batch, or
`batches_per_update` of them.

**1. Grouping** (`batches.batch_groups`). The trainer takes neighbouring batches together, up to
`max_batches`. All of them have one batch signature: the kinds, shapes and dtypes of their arrays.
Where a hook must be called around each step, a group is a single update. An update of batches with
different signatures, such as the last of an epoch, is a group of its own and always runs eagerly.

**2. The first update of a signature runs eagerly** (`CapturedStep.run`). It compiles and loads the
kernels, and it checks what only the host can check, such as the range of the labels. Its numbers
are those of a replay, bit for bit, so nothing has to be undone. It also shows which parameters get
a gradient.

**3. What follows is captured** (`graph.StepGraph`): the rest of the first group as a graph of one
update, which is replayed for each; the first full group after it as one graph. Groups that are not
full, at the end of an epoch, replay the graph of one update. For a capture the Python code of the
steps runs once more, while the stream records launches instead of running them. Each launch is
recorded with its arguments, so the pointers and numbers among them are frozen. All that differs
from step to step is therefore read from device arrays, the graph's inputs (`inputs.GraphInputs`):

    batches   filled by the host, or made by kernels of the graph (`batches.DeviceBatch`)
    clock     step and epoch of each step, from which random numbers are drawn
    hyper     learning rates and Adam's corrections, for each update

Arrays that appear within a step lie in a memory pool that the recorder's graphs share and nothing
else uses (`gpunet.cuda.capture`). Sharing is safe: replays run one after another, and what a graph
keeps for the host to read is not handed out again.

**4. Each replay** (`CapturedStep._replay`) reads from left to right. Here a graph has three steps:

    loader's thread: makes the next batches meanwhile (`DataLoader(prefetch=2)`)
    host     | fill inputs | launch | wait                              | read reports | results |
    device                          | step 0    | step 1    | step 2    |
    reports    (0, 0, 0)            | (l0,c0,0) | (l1,c1,0) | (l2,c2,0) |

The row of zeros was written at the capture. With one batch per update and a loss without label
weights the host reads once for each replay: the update of each step has written its report, (loss,
correct labels, skipped updates), see `StepReport`. From the reports come the loss and the accuracy
of each step. The host also reads the logits where another metric needs them; the losses of the
batches and, for accuracy, the logits where an update takes several batches; and label weights where
the loss has them. Before the launch the host has
counted the updates and stepped the schedule, since both decide the hyper-parameters.

**5. A loss that is not finite** is found on the device, in the step in which it occurs. The update
kernel looks at the loss and at the report before: after a bad loss it changes nothing, and neither
does any later update of the graph. Each only writes how many updates were skipped. If step 1 fails:

    host     | fill inputs | launch | wait                                | read, restore, raise |
    device                          | step 0    | step 1     | step 2     |
    reports    (0, 0, 0)            | (l0,c0,0) | (nan,c1,1) | (l2,c2,2)  |
    weights                         | updated   | unchanged  | unchanged  |

The last report says that two of three updates were skipped. The host gives the results of step 0,
and puts the optimizer's counts and the schedule back to where step 1 began. Then it repeats the
forward pass of step 1 eagerly, which raises the exact error if the host can find one, and otherwise
raises FloatingPointError. So weights, slots, counts and schedule are as if each step had been run
alone; the Trainer then puts the schedule back to where the epoch began. Running moments of batch
norm are not put back: the forward passes after the bad loss have moved them.

**6. A graph becomes stale** (`staleness.CaptureFingerprint`) when something that it has frozen
changes: an attribute of a layer, whether a parameter trains, an option of the optimizer, the seed,
the matrix precision, or the place of an array. It is checked when a fit or an epoch begins, and
before each update if hooks are called around each; the matrix precision is checked before each
launch. So what a hook with ``every_step = False`` changes counts from the
next epoch on, and a list that is changed in place is never noticed. Stale graphs are dropped, and
the next update runs as in 2.

**7. What cannot be captured** raises in step 3: a read or copy by the host, a wait, a forward hook,
too little memory. With ``capture=True`` that raises, after the first update. With
``capture="auto"`` the trainer warns once and runs eagerly from then on.

**8. On several ranks** (`gpunet.distributed`), where NCCL joins their GPUs, a graph takes this rank's
shares of the batches, whose places are part of the signature. It holds all that a step adds up over
the ranks: gradients, weights of labels, moments of batch norm, and the loss by which an update is
skipped, so that all ranks skip the same ones. Sums are branches of the graph: a bucket of gradients
is added up beside the rest of the backward pass. The host joins the results of a replay in one
message. Since all ranks must make the same calls, they ask each other whether graphs are stale
and whether a capture has failed. A batch with fewer rows than there are ranks runs eagerly.

Evaluation and prediction run eagerly: they are few launches in an epoch, and need all logits.
"""

from gpunet.train.capture.replay import CapturedStep, captured

__all__ = ["CapturedStep", "captured"]
