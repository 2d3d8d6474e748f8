//! A tmpfs in a mount namespace of its own: a disk that can be full or read-only, without a trace
//! in the namespace of the tests.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use tempfile::TempDir;

/// The namespace lives as long as its shell, and is entered through `/proc/PID/root`.
pub struct PrivateMount {
    shell: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    path: PathBuf,
    at: TempDir,
}

impl PrivateMount {
    pub fn new(mebibytes: u32) -> Self {
        let at = tempfile::tempdir().unwrap();
        let mut unshare = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            unshare.arg("--map-root-user");
        }
        let mut shell = unshare
            .args(["--mount", "--propagation", "private", "sh", "-e"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare(1) of util-linux is there");
        let mut mount = Self {
            commands: shell.stdin.take().unwrap(),
            answers: BufReader::new(shell.stdout.take().unwrap()),
            path: PathBuf::new(),
            shell,
            at,
        };
        let at = mount.at.path().to_owned();
        mount.run(&format!(
            "mount -t tmpfs -o size={mebibytes}m none {}",
            at.display()
        ));
        // Exec keeps the number: unshare is the shell now.
        mount.path = PathBuf::from(format!("/proc/{}/root{}", mount.shell.id(), at.display()));
        mount
    }

    /// The tmpfs, seen from here.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn make_read_only(&mut self) {
        let at = self.at.path().display().to_string();
        self.run(&format!("mount -o remount,ro {at}"));
    }

    fn run(&mut self, command: &str) {
        writeln!(self.commands, "{command}; echo done").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        assert_eq!(line, "done\n", "{command}");
    }
}

impl Drop for PrivateMount {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}
