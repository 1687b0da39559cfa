//! The locks and their orders as a page: plain text, or reStructuredText for Documentation/.

use super::survey::{Leaf, Link, Lock, Seen, Survey};
use crate::lab::judge::counted;
use crate::report::wrap::{wrap, wrap_after};

/// The longest line.
const WIDTH: usize = 98;
/// So many scenarios are named for an order, unless everything is asked for.
const NAMED: usize = 4;
/// What stands where nothing was seen.
const NEVER: &str = "NOT EXERCISED";

/// The page as plain text.
pub fn text(survey: &Survey, all: bool) -> String {
    Page { rst: false, all, lines: Vec::new() }.whole(survey)
}

/// The page as reStructuredText.
pub fn rst(survey: &Survey, all: bool) -> String {
    Page { rst: true, all, lines: Vec::new() }.whole(survey)
}

/// A page that is being written.
struct Page {
    rst: bool,
    all: bool,
    lines: Vec<String>,
}

impl Page {
    fn whole(mut self, survey: &Survey) -> String {
        self.heading("KVM Locks", '=');
        let of =
            |section: &'static str| survey.locks.iter().filter(move |lock| lock.section == section);
        self.heading("Reference: section 3 of the document, in its order", '-');
        of("reference").for_each(|lock| self.lock(lock));
        self.heading("The locks of section 1, which section 3 lacks", '-');
        of("orders").for_each(|lock| self.lock(lock));
        self.heading("Locks that the document lacks", '-');
        of("none").for_each(|lock| self.lock(lock));
        if of("file").next().is_some() {
            self.heading("Locks that scenario files declare", '-');
            of("file").for_each(|lock| self.own_lock(lock));
        }
        self.heading("Acquisition orders", '-');
        self.paragraph(&how(survey));
        self.orders(survey);
        while self.lines.last().is_some_and(String::is_empty) {
            self.lines.pop();
        }
        self.lines.join("\n") + "\n"
    }

    fn orders(&mut self, survey: &Survey) {
        self.heading("Documented", '~');
        survey.documented.iter().for_each(|seen| self.order(seen));
        self.heading("The leaf rule: \"everything else is a leaf\"", '~');
        let (document, others): (Vec<&Leaf>, Vec<&Leaf>) =
            survey.leaves.iter().partition(|leaf| leaf.document);
        document.into_iter().chain(others).for_each(|leaf| self.leaf(leaf));
        self.heading("Orders that the document does not mention", '~');
        survey.undocumented.iter().for_each(|seen| self.order(seen));
        if survey.undeclared.is_empty() {
            self.paragraph("Nothing was seen but these and what follows from them.");
        } else {
            self.heading("Orders that were seen and that nobody has declared", '~');
            survey.undeclared.iter().for_each(|seen| self.order(seen));
        }
        if !survey.own.is_empty() {
            self.heading("Orders of locks that scenario files declare", '~');
            survey.own.iter().for_each(|seen| self.order(seen));
        }
        let implied = &survey.implied;
        if self.all && !implied.is_empty() {
            self.heading("Orders that follow from those above", '~');
            implied.iter().for_each(|seen| self.order(seen));
        } else if !implied.is_empty() {
            let orders = counted(implied.len() as u64, "further order");
            let verb =
                if implied.len() == 1 { "was seen and follows" } else { "were seen and follow" };
            self.paragraph(&format!("{orders} {verb} from those above; -v lists them."));
        }
        self.heading("Cycles", '~');
        if survey.cycles.is_empty() {
            self.paragraph("None: everything that was seen, all scenarios together, has no cycle.");
        }
        survey.cycles.iter().for_each(|cycle| self.cycle(cycle));
        if !survey.violations.is_empty() {
            self.heading("VIOLATED, although every guard is present", '~');
        }
        for violated in &survey.violations {
            let text = format!("{} ({})", violated.property, violated.detail);
            self.entry(&violated.scenario, &[text]);
        }
    }

    /// What would be markup.
    fn plain(&self, text: &str) -> String {
        if !self.rst {
            return text.to_owned();
        }
        let letters: Vec<char> = text.chars().collect();
        let word = |i: usize| letters.get(i).is_some_and(|c| c.is_ascii_alphanumeric());
        let mut out = String::new();
        for (i, c) in letters.iter().enumerate() {
            let reference = *c == '_' && !word(i + 1) && letters.get(i + 1) != Some(&'_');
            if matches!(c, '*' | '`' | '|' | '\\') || reference {
                out.push('\\');
            }
            out.push(*c);
        }
        out
    }

    fn heading(&mut self, text: &str, under: char) {
        let text = self.plain(text);
        let line = under.to_string().repeat(text.len());
        self.lines.extend([text, line, String::new()]);
    }

    fn paragraph(&mut self, text: &str) {
        let text = self.plain(text);
        self.lines.extend(wrap(&text, WIDTH));
        self.lines.push(String::new());
    }

    /// A line and what there is to say about it, indented: a definition.
    fn entry(&mut self, term: &str, says: &[String]) {
        let term = self.plain(term);
        self.lines.extend(wrap(&term, WIDTH));
        for (i, text) in says.iter().enumerate() {
            if i > 0 && self.rst {
                self.lines.push(String::new());
            }
            let text = self.plain(text);
            self.lines.extend(wrap_after("    ", "    ", &text, WIDTH));
        }
        self.lines.push(String::new());
    }

    /// An entry of the table, in the form of the document.
    fn lock(&mut self, lock: &Lock) {
        self.field(":Name:", lock.name);
        self.field(":Type:", lock.r#type);
        self.field(":Arch:", lock.arch);
        for (i, what) in lock.protects.iter().enumerate() {
            self.field(if i == 0 { ":Protects:" } else { "" }, &format!("- {what}"));
        }
        let spelled = match lock.document_type {
            Some(spelled) => format!(" (The document writes the type '{spelled}'.)"),
            None => String::new(),
        };
        self.field(":Comment:", &format!("{}{spelled}", lock.comment));
        self.lines.push(String::new());
    }

    /// A lock that a scenario file declares.
    fn own_lock(&mut self, lock: &Lock) {
        self.field(":Name:", lock.name);
        self.field(":Type:", lock.r#type);
        self.field(":Scenario:", lock.scenario.unwrap_or(""));
        self.lines.push(String::new());
    }

    /// A field of an entry. The document indents by tabs.
    fn field(&mut self, name: &str, text: &str) {
        let indent = if text.starts_with("- ") { "  " } else { "" };
        let rest = format!("{:16}{indent}", "");
        let text = self.plain(text);
        // The lines of a list's item would look like the next field's.
        let width = if indent.is_empty() { 80 } else { WIDTH };
        let lines = wrap(&text, width - rest.len());
        for (i, line) in lines.iter().enumerate() {
            let line = match (self.rst, i) {
                (true, 0) if name.len() < 8 => format!("{name}\t\t{line}"),
                (true, 0) => format!("{name}\t{line}"),
                (true, _) => format!("\t\t{indent}{line}"),
                (false, 0) => format!("{name:<16}{line}"),
                (false, _) => format!("{rest}{line}"),
            };
            self.lines.push(line);
        }
    }

    /// An order: who nests it, and where it was seen.
    fn order(&mut self, seen: &Seen) {
        let mut says = vec![self.times(seen)];
        if !seen.nested_by.is_empty() {
            says.push(format!("Nested by {}.", seen.nested_by));
        }
        if !seen.follows_from.is_empty() {
            says.push(format!("Follows from: {}.", seen.follows_from.join(", ")));
        }
        let term = match seen.documented {
            true => format!("{} is taken outside {}", seen.outer.text, seen.inner.text),
            false => format!("{} inside {}", seen.inner.text, seen.outer.text),
        };
        self.entry(&term, &says);
    }

    /// How often an order was seen, and where.
    fn times(&self, seen: &Seen) -> String {
        if seen.times == 0 {
            return format!("{NEVER}.");
        }
        let count = seen.scenarios.len();
        let shown = if self.all { count } else { NAMED };
        let mut names: Vec<String> =
            seen.scenarios.iter().take(shown).map(|(name, n)| format!("{name} ({n})")).collect();
        if count > shown {
            names.push(format!("and {} more scenarios", count - shown));
        }
        let red = if seen.in_cycle { " PART OF A CYCLE." } else { "" };
        format!("Observed {}: {}.{red}", counted(seen.times, "time"), names.join(", "))
    }

    fn leaf(&mut self, leaf: &Leaf) {
        let document = match leaf.document {
            true => "",
            false => " (not in the document)",
        };
        let taken = match leaf.taken {
            0 => "it was never taken".to_owned(),
            n => format!("taken {}", counted(n, "time")),
        };
        let verdict = match (leaf.is_leaf, leaf.taken) {
            (true, 0) => format!("a leaf, but {NEVER}: {taken}"),
            (true, _) => format!("a leaf: {taken}, nothing inside"),
            (false, _) => format!("NOT a leaf; {taken}"),
        };
        let mut says = Vec::new();
        for seen in &leaf.inside {
            let by = match seen.nested_by {
                "" => String::new(),
                by => format!(" by {by}"),
            };
            says.push(format!("Inside: {}{by}. {}", seen.inner.text, self.times(seen)));
        }
        if says.is_empty() {
            says.push(format!("{}{}.", verdict[..1].to_uppercase(), &verdict[1..]));
            return self.entry(&format!("{}{document}", leaf.lock), &says);
        }
        self.entry(&format!("{}{document}: {verdict}", leaf.lock), &says);
    }

    fn cycle(&mut self, cycle: &[Link]) {
        let says: Vec<String> = cycle
            .iter()
            .map(|link| match link.scenarios.as_slice() {
                [] => format!("{}: declared.", link.text),
                seen => format!("{}: {}.", link.text, seen.join(", ")),
            })
            .collect();
        self.entry(&format!("A CYCLE of {}", counted(cycle.len() as u64, "order")), &says);
    }
}

/// Where and how orders were looked for.
fn how(survey: &Survey) -> String {
    let how = &survey.observed;
    let bound = match how.executions {
        Some(n) => format!("{} each", counted(n, "execution")),
        None => "within the bounds".to_owned(),
    };
    let cut = match how.cut {
        0 => String::new(),
        n => format!(" NOT all of it: a bound was hit in {}.", counted(n as u64, "scenario")),
    };
    format!(
        "Observed in {}, every guard present, {}, {bound}, seed {}.{cut} Each order is noted when \
         the inner lock is asked for; a beginning that all executions share counts once.",
        counted(how.scenarios as u64, "scenario"),
        how.strategy,
        how.seed
    )
}
