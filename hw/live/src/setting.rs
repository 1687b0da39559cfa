//! A setting of the kernel that is changed for a while.

use std::fs;
use std::io;

/// One that is changed; dropping it sets back what was there.
#[derive(Debug)]
pub struct Setting {
    path: &'static str,
    before: String,
}

impl Setting {
    /// Changes it.
    ///
    /// # Errors
    ///
    /// When it is not there, or may not be changed.
    pub fn change(path: &'static str, value: &str) -> io::Result<Setting> {
        let before = chosen(&fs::read_to_string(path)?);
        fs::write(path, value)?;
        Ok(Setting { path, before })
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        // Nobody is left who could be told.
        let _ = fs::write(self.path, &self.before);
    }
}

/// Of several words the one in brackets.
fn chosen(text: &str) -> String {
    let marked = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    marked.map_or(text.trim(), |(word, _)| word).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_chosen_is_set_back() {
        assert_eq!(chosen("always within_size advise [never] deny force\n"), "never");
        assert_eq!(chosen("0\n"), "0");
    }
}
