//! Worlds of our own, for those who have no binary cache at hand: `tests/world/make-world.sh` of
//! this repository makes one, and a mass rebuild of it, of Debian packages that are installed.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::work::Work;

/// What a developer's machine may have: interpreters, a compiler, many small files and large ones.
const PACKAGES: &[&str] = &[
    "hello",
    "perl",
    "git",
    "python3",
    "gcc",
    "vim",
    "sqlite3",
    "curl",
    "bash",
    "coreutils",
];

/// The binary caches of a world and of its rebuild, and their key.
pub fn make(work: &Work, packages: &[String]) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let script = script()?;
    let packages: Vec<&str> = if packages.is_empty() {
        PACKAGES
            .iter()
            .copied()
            .filter(|name| installed(name))
            .collect()
    } else {
        packages.iter().map(String::as_str).collect()
    };
    if packages.is_empty() {
        bail!(
            "none of these packages is installed: {}; give --cache",
            PACKAGES.join(" ")
        );
    }
    let (world, rebuild) = (work.dir().join("world"), work.dir().join("rebuild"));
    eprintln!("a world of {}", packages.join(" "));
    let run = |command: &mut Command| -> Result<()> {
        let status = command
            .args(&packages)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()?;
        if !status.success() {
            bail!(
                "{} failed ({status}); --cache takes a binary cache that is there",
                script.display()
            );
        }
        Ok(())
    };
    run(Command::new(&script).arg(&world))?;
    run(Command::new(&script)
        .args(["--salt", "rebuild", "--key"])
        .arg(world.join("key.sec"))
        .arg(&rebuild))?;
    Ok((
        vec![world.join("cache"), rebuild.join("cache")],
        vec![world.join("key.pub")],
    ))
}

/// The script, in the repository that this program is run in or was built in.
fn script() -> Result<PathBuf> {
    let (here, program) = (std::env::current_dir()?, std::env::current_exe()?);
    here.ancestors()
        .chain(program.ancestors())
        .map(|dir| dir.join("tests/world/make-world.sh"))
        .find(|script| script.is_file())
        .context(
            "tests/world/make-world.sh is not here: run this in the repository of narfs, or give \
            --cache",
        )
}

fn installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["-W", "-f", "${db:Status-Status}", package])
        .output()
        .is_ok_and(|output| output.stdout == b"installed")
}
