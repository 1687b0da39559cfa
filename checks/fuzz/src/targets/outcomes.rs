//! Files of outcomes, compared with what the simulator allows within small bounds.

use std::sync::OnceLock;

use kvmmu::cli::args::{Command, OutcomesArgs, OutcomesFormat};
use kvmmu::commands::outcomes::{Request, compare};

use super::{command, file, no_internal_error, search, write};
use crate::input::Knobs;

/// `kvmmu outcomes --compare FILE`.
fn arguments() -> &'static OutcomesArgs {
    static ONE: OnceLock<OutcomesArgs> = OnceLock::new();
    ONE.get_or_init(|| match command(&["outcomes", "--compare", file()]).command {
        Command::Outcomes(args) => args,
        _ => unreachable!("it is 'outcomes'"),
    })
}

pub(super) fn run([format, ..]: Knobs, text: &[u8]) {
    const STATEFUL: u8 = 2;
    let formats = [OutcomesFormat::Text, OutcomesFormat::Json, OutcomesFormat::Markdown];
    let format = formats[usize::from(format) % formats.len()];
    let request = Request { search: search(STATEFUL).clone(), jobs: 1, format, quiet: true };
    write(text);
    no_internal_error(compare::run(arguments(), &request, &|| false, &mut std::io::sink()));
}
