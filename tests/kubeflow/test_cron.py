"""Cron expressions of Kubeflow's recurring runs."""

from __future__ import annotations

import re

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
            ("0 3 * * *", "five .*six, .*'0 0 3 [*] [*] [*]'"),
            ("", "six .*: second, minute"),
            ("0 0 3 * * * 2026", "six .*: second, minute"),
            ("* 0 3 * * *", r"second '\*' "),
            ("*/5 0 3 * * *", r"second '\*/5' "),
            ("0 60 3 * * *", "minute '60' .* 0 to 59$"),
            ("0 0 24 * * *", "hour '24' .* 0 to 23$"),
            ("0 0 3 0 * *", "month '0' .* 1 to 31$"),
            ("0 0 3 * 13 *", "month '13' .* 1 to 12$"),
            ("0 0 3 * * 7", "week '7' .* 0 to 6$"),
            ("0 0 5-3 * * *", "hour '5-3' .* 0 to 23$"),
            ("0 */0 3 * * *", r"minute '\*/0' .*step .*\b0$"),
            ("0 0 3 L * *", "month 'L' .*number$"),
            ("0 0 3 * FOO *", "month 'FOO' .*JAN, FEB"),
            ("0 0 3 * * MON#2", "week 'MON#2' .*number, range or step$"),
            ("0 0 \u0663 * * *", "hour '\u0663' .*number, range or step$"),
            ("@reboot", "@yearly"),
            ("@every", "@every 12h"),
            ("@every 1d", "@every 12h"),
            ("@every 30s", "minute$"),
        ],
    )
    def test_what_kubeflow_cannot_read_is_told(self, expression: str, problem: str) -> None:
        named = re.escape(f"cron {expression!r}: ")
        with pytest.raises(ConfigError, match=f"^{named}.*{problem}"):
            cron.in_words(expression)
