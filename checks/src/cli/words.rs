//! The command line of a `check` again, as far as it decides what is found and printed.

use crate::cli::args::{CheckArgs, Engine};
use crate::lab::search::Strategy;
use crate::lab::variant::shell_word;

/// `kvmmu check` with what was selected and every option that is not the default. What the
/// environment says is an option, too. `--jobs`, `--shard`, `--message-format` and where traces and
/// the run itself go are left out: the parts of one run may differ in them.
pub fn words(args: &CheckArgs) -> String {
    let (search, mut words) = (&args.search, vec!["kvmmu check".to_owned()]);
    words.extend(args.select.iter().map(|word| shell_word(word)));
    words.extend(args.without.iter().map(|guards| format!("--without {}", shell_word(guards))));
    let mut add = |option: &str, value: Option<String>| {
        words.extend(value.map(|value| format!("{option} {value}")));
    };
    let engine = format!("{:?}", args.engine).to_lowercase();
    let strategy = format!("{:?}", search.strategy()).to_lowercase();
    add("--engine", (args.engine != Engine::Sim).then_some(engine));
    add("--strategy", (search.strategy() != Strategy::Auto).then_some(strategy));
    add("--seed", (search.seed != 1).then(|| search.seed.to_string()));
    add("--size", (search.size != 1).then(|| search.size.to_string()));
    add("--time-max", search.time_max.map(|time| format!("{}ms", time.as_millis())));
    add("--memory-max", search.memory_max.map(|bytes| bytes.to_string()));
    add("--states-max", search.states_max.map(|max| max.to_string()));
    add("--executions-max", search.executions_max.map(|max| max.to_string()));
    add("--pct-depth", search.pct_depth.map(|depths| depths.to_string()));
    add("--steps-max", search.steps_max.map(|max| max.to_string()));
    let counts = args.counts.as_ref().map(|path| shell_word(&path.display().to_string()));
    add("--counts", counts);
    for (is_set, option) in [(args.strict, "--strict"), (search.no_lock_checks, "--no-lock-checks")]
    {
        words.extend(is_set.then(|| option.to_owned()));
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::cli::args::{Cli, Command};

    fn again(line: &str) -> String {
        let cli = Cli::try_parse_from(line.split(' ').map(OsString::from)).unwrap();
        match cli.command {
            Command::Check(args) => words(&args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_decides_is_kept_and_the_rest_is_left_out() {
        let all = "kvmmu check canary my.toml --without pin-hold,pin-for-write --engine shuttle \
                   --strategy pct --seed 3 --size 2 --time-max 500ms --memory-max 4096 \
                   --states-max 1 --executions-max 2 --pct-depth 2-4 --steps-max 3 --strict \
                   --no-lock-checks";
        assert_eq!(again(all), all);
        let counts = "kvmmu check --counts c.txt";
        assert_eq!(again(counts), counts);
        let rest = "kvmmu check --jobs 3 --shard 1/2 --message-format json --trace-dir x --seed 1 \
                    --strategy auto --engine sim --size 1 -q";
        assert_eq!(again(rest), "kvmmu check");
    }

    /// A new option is in one of the lists above, or here.
    #[test]
    fn every_option_was_thought_of() {
        let mut command = Cli::command();
        command.build();
        let check = command.find_subcommand("check").unwrap();
        let options: Vec<_> = check.get_arguments().filter_map(|a| a.get_long()).collect();
        let known = [
            "color",
            "verbose",
            "quiet",
            "help",
            "without",
            "strict",
            "engine",
            "strategy",
            "seed",
            "time-max",
            "memory-max",
            "size",
            "states-max",
            "executions-max",
            "steps-max",
            "pct-depth",
            "no-lock-checks",
            "jobs",
            "message-format",
            "counts",
            "bless",
            "trace-dir",
            "resume",
            "shard",
        ];
        let new: Vec<_> = options.iter().filter(|option| !known.contains(option)).collect();
        assert!(new.is_empty(), "{new:?}");
    }
}
