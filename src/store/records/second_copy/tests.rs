//! Tests of the second copy, over records in memory: what of file and database is left is taken from two
//! moments.

use std::collections::BTreeMap;
use std::fs;

use tempfile::TempDir;

use super::super::{Loss, MemoryBackend, Records};
use super::*;
use crate::store::format::Format;

/// All records that are kept.
type All = BTreeMap<(Family, Vec<u8>), Vec<u8>>;

/// A database with its state directory.
struct Scene {
    dir: TempDir,
    disk: MemoryBackend,
}

/// What there is at one moment.
#[derive(Clone)]
struct Moment {
    file: Vec<u8>,
    disk: MemoryBackend,
    all: All,
}

fn put(family: Family, key: &str, record: &str) -> Batch {
    let mut batch = Batch::default();
    batch.put(family, key, record);
    batch
}

fn write(records: &Records, batch: Batch, durability: Durability) {
    records.write(batch, durability, "a test").unwrap();
}

fn all(records: &Records) -> All {
    let mut all = All::new();
    scan_kept(&*records.backend, |family, key, record| {
        all.insert((family, key.to_vec()), record.to_vec());
        Ok::<_, StoreError>(())
    })
    .unwrap();
    all
}

fn is_right(records: &Records) -> bool {
    records.check_second_copy().is_none()
}

impl Scene {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            disk: MemoryBackend::default(),
        }
    }

    fn file(&self) -> std::path::PathBuf {
        path(self.dir.path())
    }

    fn open(&self) -> Records {
        Records::in_memory(self.dir.path(), Format::Third.into(), self.disk.clone())
    }

    fn moment(&self, records: &Records, loss: Loss) -> Moment {
        Moment {
            file: fs::read(self.file()).unwrap_or_default(),
            disk: self.disk.after(loss),
            all: all(records),
        }
    }

    /// A state with this file and this database.
    fn of(file: &[u8], disk: &MemoryBackend) -> Self {
        let scene = Self {
            dir: tempfile::tempdir().unwrap(),
            disk: disk.after(Loss::Process),
        };
        fs::write(scene.file(), file).unwrap();
        scene
    }

    /// What a database made in place of a lost one has, and whether all of the copy could be read.
    fn rebuilt(file: &[u8]) -> (All, bool) {
        let scene = Self::of(file, &MemoryBackend::default());
        let opening = scene.disk.opened();
        let copy = SecondCopy::of_lost(scene.dir.path(), opening).unwrap();
        let mut found = All::new();
        let is_whole = copy
            .visit_missing(|batch| {
                for write in batch.writes {
                    match write {
                        Write::Put(family, key, record) => {
                            drop(found.insert((family, key), record));
                        }
                        Write::Delete(family, key) => drop(found.remove(&(family, key))),
                        Write::Clear(of) => found.retain(|(family, _), _| *family != of),
                    }
                }
                Ok(())
            })
            .unwrap();
        (found, is_whole)
    }
}

/// Several changes, with what there was after each.
fn history(loss: Loss) -> Vec<Moment> {
    let scene = Scene::new();
    let records = scene.open();
    let mut moments = vec![scene.moment(&records, loss)];
    let mut pin = put(Family::Roots, "pin", "1");
    pin.put(Family::Meta, "next-view", "7");
    for (batch, durability) in [
        (put(Family::Ordinals, "1", "a"), Durability::Process),
        (put(Family::Profiles, "x", "first"), Durability::Power),
        (put(Family::Paths, "a", "info"), Durability::Process),
        (put(Family::Profiles, "x", "second"), Durability::Power),
        (pin, Durability::Power),
    ] {
        write(&records, batch, durability);
        moments.push(scene.moment(&records, loss));
    }
    let mut unpin = Batch::default();
    unpin.delete(Family::Roots, "pin");
    write(&records, unpin, Durability::Power);
    moments.push(scene.moment(&records, loss));
    assert!(is_right(&records));
    moments
}

#[test]
fn a_lost_database_is_made_of_the_copy_at_any_moment() {
    for moment in &history(Loss::Process)[1..] {
        assert_eq!(Scene::rebuilt(&moment.file), (moment.all.clone(), true));
    }
}

#[test]
fn what_is_not_kept_is_not_copied() {
    let scene = Scene::new();
    let records = scene.open();
    write(&records, put(Family::Trees, "t", "1"), Durability::Power);
    write(
        &records,
        put(Family::Meta, "next-chunk", "1"),
        Durability::Power,
    );
    assert!(!scene.file().exists() && is_right(&records));
    let mut both = put(Family::Trees, "t", "2");
    both.append(put(Family::Paths, "p", "1"));
    write(&records, both, Durability::Power);
    let (found, _) = Scene::rebuilt(&fs::read(scene.file()).unwrap());
    assert_eq!(found, all(&records));
    assert_eq!(found.len(), 1);
}

#[test]
fn what_the_database_has_lost_is_missing_and_what_the_file_has_lost_is_written_again() {
    for loss in [Loss::Process, Loss::Power] {
        let moments = history(loss);
        for (n, file) in moments.iter().enumerate().skip(1) {
            for (m, disk) in moments.iter().enumerate() {
                let scene = Scene::of(&file.file, &disk.disk);
                let records = scene.open();
                if records.missing().is_some() {
                    if records.missing() == Some(Missing::All) {
                        records.delete_kept().unwrap();
                    }
                    records
                        .visit_missing(|batch| {
                            let written = records.backend.write(batch, Durability::Power);
                            written.map_err(failed("a test"))
                        })
                        .unwrap();
                    records.set_restored();
                    assert_eq!(all(&records), file.all, "{loss:?} {n} {m}");
                } else if loss == Loss::Process {
                    // The file is the older one.
                    assert_eq!(all(&records), disk.all, "{n} {m}");
                    assert!(n <= m);
                }
                assert!(is_right(&records), "{loss:?} {n} {m}");
                let found = Scene::rebuilt(&fs::read(scene.file()).unwrap());
                assert_eq!(found, (all(&records), true));
            }
        }
    }
}

#[test]
fn a_file_of_which_anything_is_damaged_or_cut_is_noticed_and_made_anew() {
    let moments = history(Loss::Process);
    let last = moments.last().unwrap();
    for at in 0..last.file.len() {
        let mut flipped = last.file.clone();
        flipped[at] ^= 1;
        for file in [&flipped[..], &last.file[..at]] {
            let scene = Scene::of(file, &last.disk);
            let records = scene.open();
            assert_eq!(all(&records), last.all, "{at}");
            if !is_right(&records) {
                records.renew_second_copy().unwrap();
            }
            assert!(is_right(&records), "{at}");
            let found = Scene::rebuilt(&fs::read(scene.file()).unwrap());
            assert_eq!(found, (last.all.clone(), true), "{at}");
        }
        // Each other entry can still be read.
        let (found, is_whole) = Scene::rebuilt(&flipped);
        assert!(!is_whole, "{at}");
        let wrong = found
            .iter()
            .filter(|(key, record)| last.all.get(key) != Some(record));
        assert!(
            wrong.count() <= 1 && found.len() + 1 >= last.all.len(),
            "{at}: {found:?}"
        );
        // Between two entries it is what it was before.
        let (found, is_whole) = Scene::rebuilt(&last.file[..at]);
        let was_there = moments.iter().any(|moment| moment.all == found);
        assert!(!is_whole || was_there, "{at}: {found:?}");
    }
}

#[test]
fn damage_of_a_file_in_use_is_found() {
    let scene = Scene::new();
    let records = scene.open();
    write(
        &records,
        put(Family::Paths, "p", "some info"),
        Durability::Process,
    );
    let mut file = fs::read(scene.file()).unwrap();
    let at = file.len() - 3;
    file[at] ^= 1;
    fs::write(scene.file(), &file).unwrap();
    assert!(!is_right(&records));
    records.renew_second_copy().unwrap();
    assert!(is_right(&records));
    fs::remove_file(scene.file()).unwrap();
    assert!(!is_right(&records));
    records.renew_second_copy().unwrap();
    assert!(is_right(&records));
}

#[test]
fn a_file_that_did_not_follow_another_program_is_made_anew() {
    let scene = Scene::new();
    let records = scene.open();
    write(&records, put(Family::Profiles, "x", "1"), Durability::Power);
    drop(records);
    scene.disk.opened();
    let other = put(Family::Profiles, "x", "2");
    scene.disk.write(other, Durability::Power).unwrap();
    let records = scene.open();
    assert_eq!(records.missing(), None);
    assert!(is_right(&records));
    let (found, _) = Scene::rebuilt(&fs::read(scene.file()).unwrap());
    assert_eq!(found, all(&records));
}

#[test]
fn a_write_that_fails_is_in_neither() {
    let scene = Scene::new();
    let records = scene.open();
    write(&records, put(Family::Profiles, "x", "1"), Durability::Power);
    let before = fs::read(scene.file()).unwrap();
    scene.disk.fail_from(Some(0));
    let failing = put(Family::Profiles, "x", "2");
    records
        .write(failing, Durability::Power, "a test")
        .unwrap_err();
    scene.disk.fail_from(None);
    assert_eq!(fs::read(scene.file()).unwrap(), before);
    assert!(is_right(&records));
}

#[test]
fn a_file_grows_only_so_far() {
    let scene = Scene::new();
    let records = scene.open();
    let large = "x".repeat(256 << 10);
    let mut longest = 0;
    for _ in 0..80 {
        write(
            &records,
            put(Family::Paths, "p", &large),
            Durability::Process,
        );
        longest = longest.max(fs::metadata(scene.file()).unwrap().len());
    }
    assert!((GROWTH..2 * GROWTH).contains(&longest), "{longest}");
    assert!(is_right(&records));
    drop(records);
    assert_eq!(scene.open().missing(), None);
}

#[test]
fn a_file_that_cannot_be_written_keeps_nobody_from_registering_paths() {
    let scene = Scene::new();
    let records = scene.open();
    write(&records, put(Family::Profiles, "x", "1"), Durability::Power);
    drop(records);
    fs::remove_file(scene.file()).unwrap();
    fs::create_dir(scene.file()).unwrap();
    let records = scene.open();
    write(&records, put(Family::Paths, "p", "1"), Durability::Power);
    let profile = || put(Family::Profiles, "x", "2");
    let refused = records.write(profile(), Durability::Power, "a test");
    assert!(refused.unwrap_err().to_string().contains("second-copy"));
    assert!(!is_right(&records));
    fs::remove_dir(scene.file()).unwrap();
    write(&records, profile(), Durability::Power);
    assert!(is_right(&records));
    let (found, _) = Scene::rebuilt(&fs::read(scene.file()).unwrap());
    assert_eq!(found, all(&records));
}
