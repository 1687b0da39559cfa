//! The options of the commands that judge recordings of real kernels.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Options of `conform`.
#[derive(Args, Clone, Debug)]
pub struct ConformArgs {
    /// A trace that 'kvmmu-live --trace TRACE' recorded
    #[arg(value_name = "TRACE")]
    pub trace: PathBuf,
    /// Text for people, or one JSON object
    #[arg(long, value_name = "text|json", default_value = "text")]
    #[arg(hide_possible_values = true)]
    pub format: ConformFormat,
}

/// Options of `steps`.
#[derive(Args, Clone, Debug)]
pub struct StepsArgs {
    /// A recording that 'cargo live-qemu --steps DIR' has made
    #[arg(value_name = "FILE")]
    pub recording: PathBuf,
    /// Text for people, or one JSON object
    #[arg(long, value_name = "text|json", default_value = "text")]
    #[arg(hide_possible_values = true)]
    pub format: ConformFormat,
    /// Only print the events from one number to another
    #[arg(long, value_name = "FROM-TO", conflicts_with = "format")]
    pub print: Option<String>,
}

/// The form of what is said of a trace.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConformFormat {
    /// Plain text
    Text,
    /// JSON
    Json,
}
