//! Running programs.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

/// How a program ended and what it said.
#[derive(Debug)]
pub struct Ran {
    /// Exit status; `None` after a signal.
    pub code: Option<i32>,
    /// Its output, byte for byte.
    pub stdout: Vec<u8>,
    /// What it complained about.
    pub stderr: String,
}

/// Runs a program to its end, with `input` on stdin.
pub fn run(command: &mut Command, input: &[u8]) -> Ran {
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .unwrap_or_else(|e| panic!("cannot run {command:?}: {e}; `make test` installs it"));
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || {
            // A program may end before it has read everything.
            let _ = stdin.write_all(input);
        });
        child.wait_with_output().unwrap()
    });
    Ran {
        code: output.status.code(),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs a program that must succeed; its output.
pub fn succeed(command: &mut Command) -> String {
    let ran = run(command, b"");
    assert_eq!(ran.code, Some(0), "{command:?} failed: {}", ran.stderr);
    String::from_utf8(ran.stdout).unwrap()
}

/// Whether a process runs. One that ended and was not waited for is dead.
pub fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().and_then(|s| s.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}
