import subprocess
import sys

import pytest

from context_i2w.errors import UserError, exit_on_user_error


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UserError("a\nb"), 2, "error: a b\n"),
        (PermissionError(13, "Permission denied", "/x"), 2, "error: /x: Permission denied\n"),
        (
            ModuleNotFoundError("No module named 'torch'", name="torch"),
            2,
            f"error: torch is not installed for {sys.executable}; `source setenv.sh` in this terminal brings what is "
            "needed, outside of a clone `pip install .`\n",
        ),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
    ],
)
def test_what_a_user_can_mend_and_ctrl_c_are_one_line(capsys, error, status, said):
    @exit_on_user_error
    def main():
        raise error

    with pytest.raises(SystemExit) as end:
        main()
    assert (end.value.code, capsys.readouterr().err) == (status, said)


def test_other_errors_keep_their_traceback():
    program = "from context_i2w.errors import exit_on_user_error\nexit_on_user_error(lambda: 1 / 0)()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
