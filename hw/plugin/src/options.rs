//! What stands after the plugin's name on QEMU's command line.

use std::path::PathBuf;

use crate::hold::Hold;
use crate::patch::Patch;

/// Where what goes.
#[derive(Debug)]
pub(crate) struct Options {
    /// The recording.
    pub(crate) out: PathBuf,
    /// The file that is the machine's memory.
    pub(crate) ram: PathBuf,
    /// By how many instructions CPUs take turns: `-icount shift`.
    pub(crate) schedule: Option<u8>,
    /// CPUs run at a time.
    pub(crate) threads: bool,
    /// The accesses of guests are held against the descriptors.
    pub(crate) guest: bool,
    /// What is changed in the kernel, to break it.
    pub(crate) patches: Vec<Patch>,
    /// Where CPUs are held.
    pub(crate) holds: Vec<Hold>,
}

impl Options {
    /// Reads them.
    pub(crate) fn read(words: &[String]) -> Result<Options, String> {
        let mut options = Options {
            out: PathBuf::new(),
            ram: PathBuf::new(),
            schedule: None,
            threads: false,
            guest: false,
            patches: Vec::new(),
            holds: Vec::new(),
        };
        for word in words {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            match name {
                "out" => options.out = value.into(),
                "ram" => options.ram = value.into(),
                "schedule" => {
                    let number = value.parse().map_err(|_| format!("'{word}': not a number"))?;
                    options.schedule = Some(number);
                }
                "threads" => options.threads = value == "on",
                "guest" => options.guest = value == "on",
                "hold" => options.holds.push(value.parse()?),
                "patch" => options.patches.push(value.parse()?),
                _ => return Err(format!("there is no option '{name}'")),
            }
        }
        if options.out.as_os_str().is_empty() || options.ram.as_os_str().is_empty() {
            return Err("it needs out=FILE and ram=FILE".to_owned());
        }
        Ok(options)
    }
}
