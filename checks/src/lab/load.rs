//! How scenarios are loaded: built-in ones by name, and files.

use std::path::Path;
use std::sync::Arc;

use kvmmu_scenarios::Scenario;
use kvmmu_scenarios::builtin::FILES;
use kvmmu_scenarios::loader::{self, LoadError};

use crate::cli::exit::Failure;

/// The built-in scenarios at `size`, in order of their names.
///
/// # Errors
///
/// A built-in file that does not load.
pub fn builtin(size: u8) -> Result<Vec<Arc<Scenario>>, Failure> {
    let load = |(name, text): &(&str, &str)| {
        loader::load(name, text, size).map(Arc::new).map_err(|error| refused(&error))
    };
    FILES.iter().map(load).collect()
}

/// The built-in scenario `name` at `size`.
///
/// # Errors
///
/// A name that no built-in file has, a size that it does not fit.
pub fn builtin_named(name: &str, size: u8) -> Result<Arc<Scenario>, Failure> {
    let file = FILES.iter().find(|(file, _)| file.strip_suffix(".toml") == Some(name));
    let Some((file, text)) = file else {
        return Err(Failure::usage(
            format!("no scenario is called '{name}'"),
            "'kvmmu list' prints the scenarios",
        ));
    };
    loader::load(file, text, size).map(Arc::new).map_err(|error| refused(&error))
}

/// The names of the scenarios that a path names, and the text of their file. A file of several
/// profiles has several; the path may be that of one of them, too (`my-race-v6.12.toml` of
/// `my-race.toml`).
///
/// # Errors
///
/// A file that cannot be read.
pub fn read(path: &str) -> Result<(Vec<String>, Arc<str>), Failure> {
    let error = match loader::read(Path::new(path)) {
        Ok(text) => {
            let names = loader::names(path, &text).map_err(|error| refused(&error))?;
            return Ok((names, Arc::from(text)));
        }
        Err(error) => error,
    };
    let whole = path.rfind("-v").map(|at| format!("{}.toml", &path[..at]));
    if let Some(whole) = whole
        && let Ok(text) = loader::read(Path::new(&whole))
    {
        // Why it has no such scenario may be that it does not load.
        loader::load(&whole, &text, 1).map_err(|error| refused(&error))?;
        let names = loader::names(&whole, &text).map_err(|error| refused(&error))?;
        if names.iter().any(|name| name == path) {
            return Ok((vec![path.to_owned()], Arc::from(text)));
        }
    }
    Err(refused(&error))
}

/// The scenario that `text`, of a file of this name, is; of several that which the name is of.
///
/// # Errors
///
/// A text that does not load.
pub fn load(file: &str, text: &str, size: u8) -> Result<Arc<Scenario>, Failure> {
    loader::load(file, text, size).map(Arc::new).map_err(|error| refused(&error))
}

/// Why a scenario file does not load, with its place and the next thing to try.
fn refused(error: &LoadError) -> Failure {
    let text = error.to_string();
    let message = text.split_once("\n  help: ").map_or(text.as_str(), |(message, _)| message);
    Failure::usage(message, error.hint.clone())
}
