//! What one part of a check printed, merged by itself. Knobs: the form.

use kvmmu::cli::args::{MergeArgs, MessageFormat};
use kvmmu::commands::merge;

use super::{file, no_internal_error, write};
use crate::input::Knobs;

pub(super) fn run([format, ..]: Knobs, text: &[u8]) {
    let formats = [MessageFormat::Human, MessageFormat::Json];
    let message_format = formats[usize::from(format) % formats.len()];
    write(text);
    let args = MergeArgs { parts: vec![file().into()], message_format };
    no_internal_error(merge::run(&args, &mut std::io::sink()));
}
