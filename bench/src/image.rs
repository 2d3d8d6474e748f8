//! Read-only file system images of unpacked store paths, squashfs and EROFS: made, and mounted by the kernel.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::mount::{UnmountFlags, unmount};

use crate::measure;
use crate::work::{self, Work};

/// A way of making an image, or why there is none on this machine.
pub struct Recipe {
    pub name: String,
    how: Result<How, &'static str>,
}

struct How {
    program: &'static str,
    args: Vec<&'static str>,
}

impl Recipe {
    /// The size of an image of all that lies in a directory, hard links of Nix's aside.
    pub fn size(&self, source: &Path, work: &Work) -> Result<u64, String> {
        let image = work.scratch("image");
        self.make(source, &image, work)?;
        let size = || -> Result<u64> {
            let size = fs::metadata(&image)?.len();
            work::remove(&image)?;
            Ok(size)
        };
        size().map_err(|error| format!("{error:#}"))
    }

    /// Makes the image in place of what may be there, or says why it cannot.
    pub fn make(&self, source: &Path, image: &Path, work: &Work) -> Result<(), String> {
        let how = self.how.as_ref().map_err(|&reason| reason.to_owned())?;
        let make = || -> Result<()> {
            work::remove(image)?;
            let mut command = Command::new(how.program);
            if how.program == SQUASHFS {
                command.arg(source).arg(image).args(&how.args);
            } else {
                command.args(&how.args).arg(image).arg(source);
            }
            measure::run(&mut command, &work.scratch(""), &work.scratch("log")).map(drop)
        };
        make().map_err(|error| format!("{error:#}"))
    }
}

/// Mounts an image by a loop device, in this namespace.
pub fn mount(image: &Path, at: &Path) -> Result<()> {
    // `mount` finds out which of the two it is.
    let output = Command::new("mount")
        .args(["-o", "ro,loop"])
        .args([image, at])
        .output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let first = said.lines().next().unwrap_or("mount says nothing");
        bail!("the image cannot be mounted here: {first}");
    }
    Ok(())
}

/// The same in place of what is mounted there: the kernel keeps nothing of that.
pub fn mount_anew(image: &Path, at: &Path) -> Result<()> {
    unmount(at, UnmountFlags::empty())
        .with_context(|| format!("cannot unmount {}", at.display()))?;
    mount(image, at)
}

const SQUASHFS: &str = "mksquashfs";
const EROFS: &str = "mkfs.erofs";

/// All that is worth a row here.
pub fn recipes(work: &Work) -> Vec<Recipe> {
    let mut all = Vec::from(squashfs());
    all.push(erofs(work));
    all
}

/// What the installed tools are.
pub fn versions() -> Vec<String> {
    let squashfs =
        says(SQUASHFS, "-version").and_then(|text| Some(text.lines().next()?.to_owned()));
    let erofs = says(EROFS, "--version")
        .and_then(|text| version(&text))
        .map(|(major, minor)| format!("{EROFS} {major}.{minor}"));
    squashfs.into_iter().chain(erofs).collect()
}

/// At the level that narfs uses, and at the level that mksquashfs uses unless told.
fn squashfs() -> [Recipe; 2] {
    let how = |level: &[&'static str]| {
        let usage = says(SQUASHFS, "-help")
            .ok_or("mksquashfs is not installed (Debian: squashfs-tools)")?;
        if !usage.contains("zstd") {
            return Err("this mksquashfs has no zstd");
        }
        let mut args = vec!["-comp", "zstd"];
        args.extend(level);
        args.extend(["-noappend", "-no-progress", "-quiet", "-e", ".links"]);
        Ok(How {
            program: SQUASHFS,
            args,
        })
    };
    [
        Recipe {
            name: "squashfs image, zstd level 3".into(),
            how: how(&["-Xcompression-level", "3"]),
        },
        Recipe {
            name: "squashfs image, zstd level 15".into(),
            how: how(&["-Xcompression-level", "15"]),
        },
    ]
}

/// The best that this version can do.
fn erofs(work: &Work) -> Recipe {
    match Erofs::find(work) {
        Ok(tool) => Recipe {
            name: format!(
                "EROFS image, {}{}",
                if tool.zstd {
                    "zstd level 3"
                } else {
                    "lz4hc (this mkfs.erofs has no zstd)"
                },
                if tool.dedupes() {
                    ", dedupe, fragments"
                } else {
                    ""
                }
            ),
            how: Ok(tool.compressed()),
        },
        Err(reason) => Recipe {
            name: "EROFS image".into(),
            how: Err(reason),
        },
    }
}

/// What is read beside narfs: the images whose size is compared, and EROFS as it is without compression.
pub fn read_beside(work: &Work) -> Vec<Recipe> {
    let recipe = |name: &str, how| Recipe {
        name: name.to_owned(),
        how,
    };
    let mut all = match Erofs::find(work) {
        Ok(tool) if tool.zstd => vec![
            recipe("EROFS zstd", Ok(tool.compressed())),
            recipe("EROFS plain", Ok(Erofs::plain())),
        ],
        Ok(tool) => vec![
            recipe(
                "EROFS zstd",
                Err("this mkfs.erofs has no zstd (erofs-utils has it from 1.8 on)"),
            ),
            recipe("EROFS lz4hc", Ok(tool.compressed())),
            recipe("EROFS plain", Ok(Erofs::plain())),
        ],
        Err(reason) => ["EROFS zstd", "EROFS plain"]
            .map(|name| recipe(name, Err(reason)))
            .into(),
    };
    let [squashfs, _] = squashfs();
    all.push(recipe("squashfs zstd", squashfs.how));
    all
}

/// mkfs.erofs. What it cannot do it may ignore without a word, hence its version.
struct Erofs {
    version: (u32, u32),
    zstd: bool,
}

impl Erofs {
    fn find(work: &Work) -> Result<Self, &'static str> {
        let text =
            says(EROFS, "--version").ok_or("mkfs.erofs is not installed (Debian: erofs-utils)")?;
        let version = version(&text).unwrap_or((1, 0));
        let zstd = version >= (1, 8) && takes_zstd(work);
        Ok(Self { version, zstd })
    }

    fn dedupes(&self) -> bool {
        self.version >= (1, 6)
    }

    fn plain() -> How {
        How {
            program: EROFS,
            args: vec!["-d1", "-T1", "--all-root", "--exclude-path=.links"],
        }
    }

    fn compressed(&self) -> How {
        let mut how = Self::plain();
        // Clusters as large as a block of squashfs and a chunk of narfs.
        how.args.extend([
            if self.zstd { "-zzstd,3" } else { "-zlz4hc,9" },
            "-C131072",
            if self.dedupes() {
                "-Eztailpacking,fragments,dedupe"
            } else {
                "-Eztailpacking"
            },
        ]);
        how
    }
}

fn takes_zstd(work: &Work) -> bool {
    let (empty, image) = (work.scratch("empty"), work.scratch("empty.erofs"));
    fs::create_dir_all(&empty).is_ok()
        && Command::new(EROFS)
            .args(["-d0", "-zzstd"])
            .args([&image, &empty])
            .output()
            .is_ok_and(|output| output.status.success())
}

/// What a tool prints, on either stream; None if it is not there.
fn says(program: &str, arg: &str) -> Option<String> {
    let output = Command::new(program).arg(arg).output().ok()?;
    let all = [output.stdout, output.stderr].concat();
    Some(String::from_utf8_lossy(&all).into_owned())
}

/// Of "mkfs.erofs 1.5" or "mkfs.erofs (erofs-utils) 1.8.5".
fn version(text: &str) -> Option<(u32, u32)> {
    text.lines()
        .filter(|line| line.starts_with(EROFS))
        .find_map(|line| {
            let mut parts = line.split_ascii_whitespace().last()?.split(['.', '-']);
            Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_erofs_utils_is_found_old_and_new() {
        assert_eq!(
            version("mkfs.erofs: unrecognized option\nmkfs.erofs 1.5\n"),
            Some((1, 5))
        );
        assert_eq!(version("mkfs.erofs (erofs-utils) 1.8.5\n"), Some((1, 8)));
        assert_eq!(version("usage\n"), None);
    }
}
