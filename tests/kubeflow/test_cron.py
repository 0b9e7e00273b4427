"""Cron expressions of Kubeflow's recurring runs."""

from __future__ import annotations

import pytest

from kubeflow import cron
from pipeline.errors import ConfigError


class TestCron:
    @pytest.mark.parametrize(
        ("expression", "words"),
        [
            ("0 0 3 * * *", "at 03:00, every day"),
            ("0 30 2 ? * MON-FRI", "at 02:30, Monday through Friday"),
            ("0 0 */6 * * *", "every 6 hours, every day"),
            ("0 0 3 1 jan,jul *", "at 03:00, on day 1 of the month, only in January and July"),
            ("0 0 3 * * 0", "at 03:00, only on Sunday"),
            ("@daily", "at 00:00, every day"),
            ("@every 1h30m", "every 1 h 30 min, counted from when it was made"),
        ],
    )
    def test_schedules_in_words(self, expression: str, words: str) -> None:
        assert cron.in_words(expression) == words

    @pytest.mark.parametrize(
        ("expression", "problem"),
        [
            ("0 3 * * *", "has five fields, but Kubeflow needs six"),
            ("", "must have six fields: second, minute"),
            ("0 0 3 * * * 2026", "must have six fields"),
            ("* 0 3 * * *", "second '*' would start more than one run a minute"),
            ("*/5 0 3 * * *", "second '*/5' would start more than one run a minute"),
            ("0 60 3 * * *", "minute '60' is not within 0 to 59"),
            ("0 0 24 * * *", "hour '24' is not within 0 to 23"),
            ("0 0 3 0 * *", "day of the month '0' is not within 1 to 31"),
            ("0 0 3 * 13 *", "month '13' is not within 1 to 12"),
            ("0 0 3 * * 7", "day of the week '7' is not within 0 to 6"),
            ("0 0 5-3 * * *", "hour '5-3' is not within 0 to 23"),
            ("0 */0 3 * * *", "minute '*/0' has a step of 0"),
            ("0 0 3 L * *", "day of the month 'L' is not a number"),
            ("0 0 3 * FOO *", "month 'FOO' is not a number or one of JAN, FEB"),
            ("0 0 3 * * MON#2", "day of the week 'MON#2' is not a number, range or step"),
            ("0 0 \u0663 * * *", "hour '\u0663' is not a number, range or step"),
            ("@reboot", "no such descriptor; there are @yearly"),
            ("@every", "must be like @every 12h"),
            ("@every 1d", "must be like @every 12h"),
            ("@every 30s", "would start more than one run a minute"),
        ],
    )
    def test_what_kubeflow_cannot_read_is_told(self, expression: str, problem: str) -> None:
        with pytest.raises(ConfigError) as caught:
            cron.in_words(expression)
        assert f"cron {expression!r}" in str(caught.value)
        assert problem in str(caught.value)
