//! What was measured, for people and for programs.

use serde_json::{Value, json};

use super::{Contender, LINKS, Optimised, SWITCHES, Sample, Step};
use crate::nix;
use crate::report::{Section, mb, median, spread, table};

const NAME: &str = "profiles";

/// Processes for each CPU. The runs themselves make some one.
const BUSY: f64 = 1.5;

pub(super) fn not_measured(reason: &str) -> Section {
    Section {
        markdown: format!("### Profiles\n\nNot measured: {reason}.\n"),
        data: json!({ "not_measured": reason }),
        ..Section::new(NAME)
    }
}

pub(super) fn section(
    contenders: &[Contender],
    optimised: Option<&Optimised>,
    rounds: u32,
    dropped: bool,
) -> Section {
    Section {
        markdown: format!(
            "{}{}",
            markdown(contenders, rounds, dropped),
            kept(contenders, optimised)
        ),
        data: data(contenders, optimised, dropped),
        ..Section::new(NAME)
    }
}

/// A row of the table.
struct Measure {
    name: &'static str,
    decimals: usize,
    of: fn(&Sample) -> Option<f64>,
}

/// A part of a round.
type Part = fn(&Sample) -> Vec<&Step>;

fn first(s: &Sample) -> Vec<&Step> {
    vec![&s.first]
}

fn second(s: &Sample) -> Vec<&Step> {
    vec![&s.second]
}

fn switches(s: &Sample) -> Vec<&Step> {
    s.switches.iter().collect()
}

fn of(s: &Sample, part: Part, value: impl Fn(&Step) -> f64) -> f64 {
    median(part(s).into_iter().map(value))
}

/// How long a switch took.
pub(super) fn switch_seconds(s: &Sample) -> f64 {
    of(s, switches, |step| step.cost.ended_seconds)
}

#[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 bytes")]
fn signed_mb(bytes: i64) -> f64 {
    bytes as f64 / 1e6
}

#[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 inodes")]
fn inodes(step: &Step) -> f64 {
    step.inodes as f64
}

fn device(s: &Sample, part: Part) -> Option<f64> {
    let bytes: Option<Vec<f64>> = part(s)
        .into_iter()
        .map(|step| step.cost.device_bytes.map(mb))
        .collect();
    bytes.map(median)
}

/// Rows of a part: its title, and how exactly seconds and bytes are told.
macro_rules! rows {
    ($part:path, $title:literal, $seconds:literal, $bytes:literal) => {
        [
            Measure {
                name: concat!($title, "seconds until the command ends"),
                decimals: $seconds,
                of: |s| Some(of(s, $part, |step| step.cost.ended_seconds)),
            },
            Measure {
                name: "seconds until all is synced",
                decimals: $seconds,
                of: |s| Some(of(s, $part, |step| step.cost.synced_seconds)),
            },
            Measure {
                name: "MB written by the processes",
                decimals: $bytes,
                of: |s| Some(of(s, $part, |step| mb(step.written_bytes()))),
            },
            Measure {
                name: "MB written by the disk",
                decimals: $bytes,
                of: |s| device(s, $part),
            },
            Measure {
                name: "MB more on disk",
                decimals: $bytes,
                of: |s| Some(of(s, $part, |step| signed_mb(step.disk_bytes))),
            },
            Measure {
                name: "inodes more",
                decimals: 0,
                of: |s| Some(of(s, $part, inodes)),
            },
        ]
    };
}

fn measures() -> Vec<Measure> {
    let mut measures = Vec::new();
    measures.extend(rows!(first, "**install 31 packages**: ", 2, 1));
    measures.extend(rows!(second, "**install one more**: ", 2, 1));
    measures.extend(rows!(switches, "**switch**: ", 3, 2));
    measures.push(Measure {
        name: "**read all links**, caches cold: seconds",
        decimals: 2,
        of: |s| Some(s.list_seconds),
    });
    measures
}

impl Contender {
    fn median(&self, measure: &Measure) -> Option<f64> {
        let values: Option<Vec<f64>> = self.samples.iter().map(measure.of).collect();
        values.map(median)
    }
}

fn row(measure: &Measure, contenders: &[Contender]) -> Vec<String> {
    let shown = |value: Option<f64>| {
        value.map_or("not measured".into(), |v| {
            format!("{v:.*}", measure.decimals)
        })
    };
    let ours = contenders[0].median(measure);
    let mut cells = vec![measure.name.to_owned(), shown(ours)];
    for peer in &contenders[1..] {
        let theirs = peer.median(measure);
        // Nothing is no measure for anything.
        let ratio = ours.zip(theirs).filter(|(_, theirs)| *theirs > 0.0);
        cells.push(shown(theirs));
        cells.push(ratio.map_or(String::new(), |(ours, theirs)| {
            format!("{:.3} ×", ours / theirs)
        }));
    }
    cells
}

fn markdown(contenders: &[Contender], rounds: u32, dropped: bool) -> String {
    let peers = &contenders[1..];
    let mut head = vec![String::new(), contenders[0].way.name().into()];
    for peer in peers {
        head.extend([peer.way.name().into(), "narfs is".into()]);
    }
    let measures = measures();
    let rows = measures.iter().map(|measure| row(measure, contenders));
    let table = table(&std::iter::once(head).chain(rows).collect::<Vec<_>>());
    let (missing, compared) = if peers.is_empty() {
        (
            format!("\nNot measured: nix-env, nix profile: {}.\n", nix::ABSENT),
            "",
        )
    } else {
        let compared = "In each round all show the same links, name by name and target by target. ";
        (String::new(), compared)
    };
    let how = match rounds {
        1 => "One round".to_owned(),
        _ => {
            let spreads = contenders.iter().map(|contender| {
                let seconds = |s: &Sample| s.first.cost.ended_seconds;
                spread(contender.samples.iter().map(seconds))
            });
            let widest = spreads.fold(0.0, f64::max) * 100.0;
            format!(
                "Medians of {rounds} interleaved rounds, in which the seconds of the first install \
                 lie within {widest:.0} % of them"
            )
        }
    };
    let samples = contenders.iter().flat_map(|contender| &contender.samples);
    let load = median(samples.map(|s| s.load));
    let cpus = u32::try_from(std::thread::available_parallelism().map_or(1, usize::from));
    let quiet = if load > BUSY * cpus.map_or(1.0, f64::from) {
        ": **too much for the seconds to count; repeat this on a quiet machine**"
    } else {
        ""
    };
    let cold = if dropped {
        ""
    } else {
        " The kernel's caches could not be dropped here, so nothing was cold."
    };
    format!(
        "### Profiles: a user environment of {LINKS} links\n\n{table}{missing}\n\
         {how}; the load of the machine was {load:.1}{quiet}. {compared}The packages are here before; one \
         more is one of ten files. A round has {} switches, back and forth. Until the command ends, narfs \
         syncs its database, so that a change outlasts a loss of power; Nix syncs nothing of what it writes \
         but what SQLite does, and a switch is a rename. Until all is synced: with a sync of the whole file \
         system afterwards. What the processes wrote is what the kernel charges to them, the daemon of \
         narfs included; what the disk wrote is its own count, with the journal and with whatever else ran. \
         narfs has a daemon, which is mounted and asked over a socket; nix-env evaluates an expression, and \
         starts a builder; nix profile does neither, but makes the links twice, in a temporary directory \
         and in the store. Reading all links is `find -printf %l` below the store path, which narfs \
         computes from its database and Nix has on the disk.{cold}\n\n",
        2 * SWITCHES,
    )
}

/// What a generation costs as long as it is kept.
#[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 bytes")]
fn kept(contenders: &[Contender], optimised: Option<&Optimised>) -> String {
    let ours = contenders[0].samples.iter();
    let stored = |step: &Step| step.stored_bytes.map_or(f64::NAN, |n| n as f64 / 1e3);
    let stored = median(ours.map(|s| stored(&s.second)));
    let optimised = optimised.map_or(String::new(), |o| {
        let each = |n: u64| n as f64 / o.generations as f64;
        format!(
            " ext4 takes a block of 4 KiB for a link whose target is longer than 59 bytes. `nix-store \
             --optimise`, which makes equal links one, took {:.0} s; then each of the {} generations of \
             Nix, which are much alike, takes {:.1} MB and {:.0} inodes.",
            o.seconds,
            o.generations,
            each(o.bytes) / 1e6,
            each(o.inodes)
        )
    });
    format!("One more generation that is kept is {stored:.0} kB of records to narfs.{optimised}\n")
}

fn data(contenders: &[Contender], optimised: Option<&Optimised>, dropped: bool) -> Value {
    let step = |step: &Step| {
        json!({
            "ended_seconds": step.cost.ended_seconds,
            "synced_seconds": step.cost.synced_seconds,
            "cpu_seconds_of_the_command": step.cost.cpu_seconds,
            "written_bytes": step.written_bytes(),
            "device_bytes": step.cost.device_bytes,
            "disk_bytes": step.disk_bytes,
            "inodes": step.inodes,
            "stored_bytes": step.stored_bytes,
            "others_share": step.cost.others_share,
        })
    };
    let sample = |s: &Sample| {
        json!({
            "first": step(&s.first),
            "second": step(&s.second),
            "switches": s.switches.iter().map(step).collect::<Vec<_>>(),
            "list_seconds": s.list_seconds,
            "load": s.load,
        })
    };
    let contenders: serde_json::Map<_, _> = contenders
        .iter()
        .map(|contender| {
            let samples: Vec<Value> = contender.samples.iter().map(sample).collect();
            (contender.way.name().to_owned(), samples.into())
        })
        .collect();
    let optimised = optimised.map(|o| {
        json!({
            "generations": o.generations,
            "seconds": o.seconds,
            "bytes": o.bytes,
            "inodes": o.inodes,
        })
    });
    json!({
        "links": LINKS,
        "page_cache_dropped": dropped,
        "contenders": contenders,
        "nix_optimised": optimised,
    })
}
