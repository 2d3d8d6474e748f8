//! What a command costs until its output is on disk: wall clock, CPU and memory of its process
//! tree, bytes written. Nothing here knows what is measured.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// One run of a command.
pub struct Cost {
    /// From the start until what it wrote is synced.
    pub synced_seconds: f64,
    /// From the start until it ended.
    pub ended_seconds: f64,
    /// User and system time of the process and of all that it waited for.
    pub cpu_seconds: f64,
    /// Of the largest process.
    pub peak_rss_bytes: u64,
    /// What the kernel charges to the processes for writing (`write_bytes` in /proc/PID/io): pages
    /// of files, without the journal of the file system.
    pub charged_bytes: u64,
    /// What the block device below wrote meanwhile, journal and metadata included, other
    /// programs' writing too. None where the file system has no device of its own.
    pub device_bytes: Option<u64>,
    /// How much of all CPUs everything else had meanwhile, kernel threads that write for the
    /// command among it: says how quiet the machine was.
    pub others_share: f64,
}

/// Runs a command that writes below `output`, which must be a directory on the disk that counts.
pub fn run(command: &mut Command, output: &Path, log: &Path) -> Result<Cost> {
    let disk = File::open(output).with_context(|| format!("cannot open {}", output.display()))?;
    let sync = || rustix::fs::syncfs(&disk).context("syncfs");
    let written = File::create(log)?;
    command
        .stdin(Stdio::null())
        .stdout(written.try_clone()?)
        .stderr(written);

    rustix::fs::sync();
    let before = device_written(output);
    let busy_before = busy_seconds();
    let start = Instant::now();
    let name = command.get_program().to_string_lossy().into_owned();
    let child = command
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    let (status, usage) = wait(child.id())?;
    let ended_seconds = start.elapsed().as_secs_f64();
    sync()?;
    let synced_seconds = start.elapsed().as_secs_f64();
    let after = device_written(output);
    let busy = busy_seconds() - busy_before;

    if !status.success() {
        bail!("{name} failed ({status}):\n{}", tail(log));
    }
    let cpu_seconds = seconds(usage.ru_utime) + seconds(usage.ru_stime);
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let capacity = synced_seconds * f64::from(u32::try_from(cpus)?);
    Ok(Cost {
        synced_seconds,
        ended_seconds,
        cpu_seconds,
        others_share: ((busy - cpu_seconds) / capacity).max(0.0),
        peak_rss_bytes: count(usage.ru_maxrss) * 1024,
        // The kernel counts blocks of 512 bytes here, whatever the block size of the file system.
        charged_bytes: count(usage.ru_oublock) * 512,
        device_bytes: before.zip(after).map(|(before, after)| after - before),
    })
}

/// A command that runs, to be waited for; killed if it is not.
pub struct Running {
    name: String,
    child: Child,
    log: PathBuf,
}

/// Starts a command whose output goes to a log.
pub fn start(command: &mut Command, log: &Path) -> Result<Running> {
    let written = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let name = command.get_program().to_string_lossy().into_owned();
    let child = command
        .stdout(written.try_clone()?)
        .stderr(written)
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    let log = log.to_owned();
    Ok(Running { name, child, log })
}

impl Running {
    /// Waits until the command has ended; an error if it fails, or does not end in time.
    pub fn end(mut self, limit: Duration) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?).context("no process")?;
        let process = pidfd_open(pid, PidfdFlags::empty()).context("pidfd_open")?;
        let limit = Timespec::try_from(limit).ok();
        let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], limit.as_ref())?;
        if ended == 0 {
            bail!("{} does not end:\n{}", self.name, tail(&self.log));
        }
        let status = self.child.wait()?;
        if !status.success() {
            bail!("{} failed ({status}):\n{}", self.name, tail(&self.log));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Nothing happens to a child that has been waited for. One that waits for a mount may
        // take longer to end than anybody wants to wait here.
        let _ = self.child.kill();
    }
}

/// Runs a command whose time the caller takes.
pub fn run_within(command: &mut Command, log: &Path, limit: Duration) -> Result<()> {
    start(command.stdin(Stdio::null()), log)?.end(limit)
}

/// How many processes ran or wanted to, on average over the last minute.
pub fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split(' ').next();
    first.and_then(|word| word.parse().ok()).unwrap_or(0.0)
}

/// What the kernel has charged to a running process for writing, see [`Cost::charged_bytes`].
pub fn written_by(process: u32) -> Result<u64> {
    let file = format!("/proc/{process}/io");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
    let mut lines = text.lines();
    let bytes = lines.find_map(|line| line.strip_prefix("write_bytes: "));
    let bytes = bytes.and_then(|bytes| bytes.parse().ok());
    bytes.with_context(|| format!("{file} has no write_bytes"))
}

/// Resident memory of a running process.
pub fn resident(process: u32) -> Result<u64> {
    let file = format!("/proc/{process}/status");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kib.with_context(|| format!("{file} has no VmRSS"))? * 1024)
}

/// Drops the page cache, entries and inodes, after writing out what is dirty. False where this
/// is not allowed, as in some containers.
pub fn drop_kernel_caches() -> bool {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}

/// Reads a file into the page cache.
pub fn warm(file: &Path) -> Result<()> {
    let mut file = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    io::copy(&mut file, &mut io::sink())?;
    Ok(())
}

/// Reads a program and its libraries into the page cache.
pub fn warm_program(command: &Command) -> Result<()> {
    let name = Path::new(command.get_program());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places: Vec<PathBuf> = if name.is_absolute() {
        vec![name.to_owned()]
    } else {
        std::env::split_paths(&path)
            .map(|dir| dir.join(name))
            .collect()
    };
    let Some(program) = places.into_iter().find(|place| place.is_file()) else {
        bail!("{} is not in the PATH", name.display());
    };
    warm(&program)?;
    // A script, or a static program, has none.
    let Ok(libraries) = Command::new("ldd").arg(&program).output() else {
        return Ok(());
    };
    let listed = String::from_utf8_lossy(&libraries.stdout).into_owned();
    for word in listed
        .split_ascii_whitespace()
        .filter(|word| word.starts_with('/'))
    {
        warm(Path::new(word))?;
    }
    Ok(())
}

/// The last lines of a log.
pub fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}

fn wait(pid: u32) -> Result<(ExitStatus, libc::rusage)> {
    use std::os::unix::process::ExitStatusExt;
    let pid = libc::pid_t::try_from(pid)?;
    let mut status = 0;
    // SAFETY: a rusage is plain numbers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to live locals, and the process is a child that nobody else waits for.
        if unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) } == pid {
            return Ok((ExitStatus::from_raw(status), usage));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error).context("wait4");
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "seconds of a run are few")]
fn seconds(time: libc::timeval) -> f64 {
    time.tv_sec as f64 + time.tv_usec as f64 / 1e6
}

fn count(value: libc::c_long) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// What all CPUs have worked since the start of the machine, time stolen by a hypervisor included.
fn busy_seconds() -> f64 {
    // The unit of /proc/stat on every architecture that Linux runs on today.
    const TICKS: f64 = 100.0;
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    busy_ticks(&stat).unwrap_or(0.0) / TICKS
}

/// user, nice, system, idle, iowait, irq, softirq, steal: all but the fourth and the fifth.
fn busy_ticks(stat: &str) -> Option<f64> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<f64> = line
        .split_ascii_whitespace()
        .take(8)
        .map(|field| field.parse().ok())
        .collect::<Option<_>>()?;
    Some(fields.iter().sum::<f64>() - fields.get(3)? - fields.get(4)?)
}

/// Bytes that the block device of a path has written since the start of the machine.
fn device_written(path: &Path) -> Option<u64> {
    let dev = fs::metadata(path).ok()?.dev();
    let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
    let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    sectors_written(&stat).map(|sectors| sectors * 512)
}

/// The seventh number of a block device's statistics.
fn sectors_written(stat: &str) -> Option<u64> {
    stat.split_ascii_whitespace().nth(6)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_of_a_command_includes_the_processes_that_it_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        let script = "sh -c 'i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; head -c 3000000 /dev/zero \
            >big'";
        command
            .args(["-c", &format!("{script}; true")])
            .current_dir(dir.path());
        let cost = run(&mut command, dir.path(), &dir.path().join("log")).unwrap();
        assert!(cost.cpu_seconds > 0.01, "{}", cost.cpu_seconds);
        assert!(cost.synced_seconds >= cost.ended_seconds);
        assert!(cost.peak_rss_bytes > 100_000);
    }

    #[test]
    fn a_command_that_fails_is_an_error_with_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo no space >&2; exit 3"]);
        let error = run(&mut command, dir.path(), &dir.path().join("log"))
            .err()
            .unwrap();
        assert!(error.to_string().contains("no space"), "{error}");
    }

    #[test]
    fn a_command_that_does_not_end_is_an_error_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut command = Command::new("sleep");
        let limit = Duration::from_millis(50);
        let start = Instant::now();
        assert!(run_within(command.arg("100"), &log, limit).is_err());
        assert!(start.elapsed() < Duration::from_secs(10));
        run_within(&mut Command::new("true"), &log, Duration::from_secs(60)).unwrap();
    }

    #[test]
    fn idle_and_waiting_for_the_disk_is_not_work() {
        let stat = "cpu  100 20 30 4000 500 6 7 8 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        assert_eq!(busy_ticks(stat), Some(171.0));
        assert_eq!(busy_ticks(""), None);
    }

    #[test]
    fn the_sectors_written_of_a_device_are_its_seventh_number() {
        let stat =
            "  680148    38057 29422538  1586474   126980   331148 73751248   423812        0";
        assert_eq!(sectors_written(stat), Some(73_751_248));
    }
}
