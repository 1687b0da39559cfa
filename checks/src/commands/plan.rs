//! What `kvmmu check` does, whatever runs it.

use std::path::Path;

use crate::cli::args::{CheckArgs, MessageFormat};
use crate::cli::exit::Exit;
use crate::cli::lines::{Placed, RunStart, ShardStart};
use crate::cli::words::words;
use crate::commands::counts::Pinned;
use crate::lab::kept::Kept;
use crate::lab::search::Search;
use crate::lab::shard::{self, Shard};
use crate::lab::variant::Variant;

/// One part of a run.
#[derive(Clone, Debug)]
pub struct Part {
    /// Which part of which run.
    pub start: ShardStart,
    /// The places of its variants among all those of the run.
    pub places: Vec<usize>,
}

impl Part {
    /// Leaves those of `variants`, which `args` select, that are of the shard.
    pub fn take(shard: Shard, variants: &mut Vec<Variant>, args: &CheckArgs) -> Part {
        let places = shard.deal(variants.len());
        let start = ShardStart {
            index: shard.index,
            of: shard.of,
            selected: variants.len(),
            selection: shard::stamp(variants),
            command: words(args),
            engine: format!("{:?}", args.engine).to_lowercase(),
            counts: args.counts.as_ref().map(|path| path.display().to_string()),
        };
        *variants = places.iter().map(|place| variants[*place].clone()).collect();
        Part { start, places }
    }
}

/// What a run consists of.
#[derive(Debug)]
pub struct Plan<'a> {
    /// What is explored, in the order of the output.
    pub variants: Vec<Variant>,
    /// How, and how far.
    pub search: Search,
    /// The size at which the scenarios were loaded.
    pub size: u8,
    /// On how many threads.
    pub jobs: usize,
    /// A verdict that nothing stands behind is unexpected.
    pub strict: bool,
    /// How results are printed.
    pub format: MessageFormat,
    /// The table that the results are compared with.
    pub counts: Option<Pinned>,
    /// Where traces go.
    pub trace_dir: &'a Path,
    /// No progress and no notes.
    pub quiet: bool,
    /// Where the run is kept.
    pub kept: Option<Kept>,
    /// That it is one part of a run.
    pub part: Option<Part>,
}

impl Plan<'_> {
    /// The first line of its output; verdicts are under the memory model `model`.
    pub fn start(&self, model: &str) -> RunStart {
        let mut start = RunStart::of(&self.search, self.size, self.variants.len(), model);
        start.shard = self.part.as_ref().map(|part| part.start.clone());
        start
    }

    /// What is said of the variant with index `job` next to its verdict or error.
    pub fn placed(&self, job: usize, exit: Exit) -> Placed {
        let index = self.part.as_ref().map_or(job, |part| part.places[job]);
        Placed { index, name: self.variants[job].name(), exit, lumped: 0, locks: None }
    }
}
