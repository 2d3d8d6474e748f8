//! `narfs debug`

use anyhow::bail;
use clap::{Args, Subcommand};

use super::global::Global;
use super::outcome::Outcome;
use super::output::{print_json, println};
use crate::command::{
    ChunkReport, DebugReport, DebugRequest, KindReport, MaskReport, PathRecordReport, Report,
    Request, TreeReport,
};

/// Show records of the state, decoded
///
/// docs/format.md specifies them. Sizes are in bytes.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    record: Record,
    /// Print as JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Record {
    /// The nodes, chunks and masked hashes of a tree
    Tree {
        /// The digest of the tree, or a store path that has it: /nix/store/HASH-NAME, HASH-NAME or HASH
        #[arg(value_name = "PATH|DIGEST")]
        tree: String,
    },
    /// Where a chunk is, how it is compressed, and which trees have it
    Chunk {
        /// The digest of the chunk
        digest: String,
    },
    /// What is recorded of a path: its path info, ordinal, tree, references and last use
    Path {
        /// A store path: /nix/store/HASH-NAME, HASH-NAME or HASH
        path: String,
    },
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let request = match self.record {
            Record::Tree { tree } => DebugRequest::Tree(tree),
            Record::Chunk { digest } => DebugRequest::Chunk(digest),
            Record::Path { path } => DebugRequest::Path(path),
        };
        let Report::Debug(report) = global.run(Request::Debug(request), false)? else {
            bail!("the daemon gave another report than a record");
        };
        match report {
            DebugReport::Tree(tree) if self.json => print_json(&tree)?,
            DebugReport::Chunk(chunk) if self.json => print_json(&chunk)?,
            DebugReport::Path(path) if self.json => print_json(&path)?,
            DebugReport::Tree(tree) => println(&tree_lines(&tree).join("\n"))?,
            DebugReport::Chunk(chunk) => println(&chunk_lines(&chunk).join("\n"))?,
            DebugReport::Path(path) => println(&path_lines(&path).join("\n"))?,
        }
        Ok(Outcome::Good)
    }
}

fn kind(kind: KindReport) -> &'static str {
    match kind {
        KindReport::Directory => "directory",
        KindReport::Regular => "file",
        KindReport::Executable => "executable",
        KindReport::Symlink => "link",
    }
}

fn here(complete: bool) -> &'static str {
    match complete {
        true => "here",
        false => "not here",
    }
}

fn tree_lines(tree: &TreeReport) -> Vec<String> {
    let mut lines = vec![
        format!("tree        {}", tree.digest),
        format!("encoding    {}, stored {}", tree.length, tree.stored_length),
        format!(
            "stream      {}, {}",
            tree.stream_length,
            here(tree.complete)
        ),
        format!("references  {}", tree.references),
        String::new(),
        format!(
            "{:>8}  {:10}  {:>12}  {:>12}",
            "NODE", "KIND", "OFFSET", "SIZE"
        ),
    ];
    for (index, node) in tree.nodes.iter().enumerate() {
        let target = node.target.as_ref().map(|target| format!(" -> {target}"));
        let (kind, target) = (kind(node.kind), target.unwrap_or_default());
        let name = if index == 0 { "." } else { &node.name };
        lines.push(format!(
            "{index:>8}  {kind:10}  {:>12}  {:>12}  {name}{target}",
            node.offset, node.size
        ));
    }
    lines.push(String::new());
    lines.push(format!(
        "{:>8}  {:10}  {:>12}  {:>12}",
        "CHUNK", "NUMBER", "OFFSET", "LENGTH"
    ));
    for (index, chunk) in tree.chunks.iter().enumerate() {
        let number = chunk
            .number
            .map_or_else(|| "-".to_owned(), |n| n.to_string());
        lines.push(format!(
            "{index:>8}  {number:10}  {:>12}  {:>12}  {}",
            chunk.offset, chunk.length, chunk.digest
        ));
    }
    lines.extend(mask_lines("MASKED IN THE STREAM", &tree.masks));
    lines.extend(mask_lines("MASKED IN TARGETS", &tree.target_masks));
    lines
}

fn mask_lines(title: &str, masks: &[MaskReport]) -> Vec<String> {
    if masks.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![String::new(), title.to_owned()];
    let each = masks.iter();
    lines.extend(each.map(|m| format!("{:>12}  reference {}", m.offset, m.reference)));
    lines
}

fn chunk_lines(chunk: &ChunkReport) -> Vec<String> {
    let state = match chunk.intact {
        true => "intact",
        false => "missing or damaged",
    };
    let codec = chunk.codec.as_deref().unwrap_or("-");
    let mut lines = vec![
        format!("chunk       {}", chunk.digest),
        format!("number      {}", chunk.number),
        format!(
            "length      {}, stored {}, codec {codec}",
            chunk.length, chunk.stored_length
        ),
        format!("record      {state}"),
        format!("trees       {}", chunk.trees.len()),
    ];
    lines.extend(chunk.trees.iter().map(|tree| format!("            {tree}")));
    lines
}

fn path_lines(path: &PathRecordReport) -> Vec<String> {
    let info = &path.info;
    let root = path.root.map_or("unknown", kind);
    let tree = path
        .tree
        .clone()
        .unwrap_or_else(|| format!("- (root: {root})"));
    let used = path
        .used
        .map_or_else(|| "-".to_owned(), |ms| (ms / 1000).to_string());
    let mut lines = vec![
        format!("path        {}", info.path),
        format!("ordinal     {}", path.ordinal),
        format!("origin      {}", path.origin),
        format!("tree        {tree}"),
        format!("contents    {}", here(path.complete)),
        format!("NarHash     {}", info.nar_hash),
        format!("NarSize     {}", info.nar_size),
        format!("registered  {}", info.registration_time),
        format!("used        {used}"),
        format!("deriver     {}", info.deriver.as_deref().unwrap_or("-")),
        format!("CA          {}", info.ca.as_deref().unwrap_or("-")),
    ];
    lines.extend(info.signatures.iter().map(|s| format!("signature   {s}")));
    for (number, reference) in path.table.iter().enumerate() {
        lines.push(format!(
            "reference   {number}: {}, masked in contents: {}, in targets: {}",
            reference.path, reference.masks, reference.target_masks
        ));
    }
    lines
}
