//! What `kvmmu check` does, whatever runs it.

use std::path::Path;

use crate::cli::args::MessageFormat;
use crate::commands::counts::Pinned;
use crate::lab::search::Search;
use crate::lab::variant::Variant;

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
}
