"""What a stream kept and lost, from the scores on every stage after every stage.

    matrix[i][j]        primary metric on stage j after learning stage i
    average_accuracy    mean_j matrix[last][j], with a minus where a lower score is better
    forgetting          mean over the earlier stages j of (best_i matrix[i][j] - matrix[last][j])
    backward_transfer   mean over the earlier stages j of (matrix[last][j] - matrix[j][j])
    forward_transfer    mean over the later stages j of (matrix[j - 1][j] - untouched[j])

(Lopez-Paz & Ranzato 2017, section 3.2; Chaudhry et al. 2018, section 3.) Signs are such that more is better also where the metric is
one that falls. A stage that no head can read yet has no number before its turn.
"""

from __future__ import annotations

from typing import Any


def transfer(matrix: list[list[float | None]], untouched: list[float | None], signs: list[float]) -> dict[str, Any]:
    """Average accuracy, backward and forward transfer and forgetting of a matrix of scores.

    Args:
        matrix: [trained stages, stages]; None where nothing could be measured.
        untouched: scores before anything was learned.
        signs: 1 where a higher score is better, -1 where a lower one is.
    """
    last = [sign * value for sign, value in zip(signs, matrix[-1], strict=True) if value is not None]
    stages = len(matrix[-1])
    square = len(matrix) == stages

    def mean(values: list[float]) -> float | None:
        return sum(values) / len(values) if values else None

    lost: list[float] = []
    backward: list[float] = []
    forward: list[float] = []
    for j in range(stages if square else 0):
        seen = [signs[j] * v for row in matrix[j:] if (v := row[j]) is not None]
        if j < stages - 1:
            lost.append(max(seen) - seen[-1])
            backward.append(seen[-1] - seen[0])
        ahead = matrix[j - 1][j] if j else None
        start = untouched[j]
        if ahead is not None and start is not None:
            forward.append(signs[j] * (ahead - start))
    return {
        "matrix": matrix,
        "average_accuracy": mean(last),
        "backward_transfer": mean(backward),
        "forward_transfer": mean(forward),
        "forgetting": mean(lost),
        "forgetting_per_stage": lost,
    }
