"""tf-idf: logistic (or ridge) regression on weighted counts of words and word pairs; no pretrained model at all."""

from __future__ import annotations

from pydantic import Field

from tunesmith.baselines._base import Baseline, Guess, fit_linear, texts
from tunesmith.config import Options as BaseOptions
from tunesmith.config import RunConfig
from tunesmith.data.splits import Roles
from tunesmith.tasks._base import Task


class Options(BaseOptions):
    """Options of the tf-idf baseline."""

    strength: float = Field(10.0, gt=0, description="inverse of the L2 penalty (scikit-learn's C)")
    longest: int = Field(2, ge=1, description="words in the longest counted phrase")


class TfIdf(Baseline):
    """scikit-learn's TfidfVectorizer and a linear model."""

    Options = Options

    def predict(self, task: Task, roles: Roles, config: RunConfig) -> Guess:
        """Count, weigh, fit."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        train = texts(roles.train.table)
        vectorizer = TfidfVectorizer(
            ngram_range=(1, self.options.longest),
            min_df=2 if len(train) > 200 else 1,
            sublinear_tf=True,
            token_pattern=r"(?u)\b\w+\b",
        )
        features = vectorizer.fit_transform(train)
        return fit_linear(
            task, roles, features, vectorizer.transform(texts(roles.eval.table)), self.options.strength, config.seed
        )
