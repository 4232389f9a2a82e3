//! Long flags with one dash, as cloudflared takes them under `tunnel`: `-config FILE`, `-np PREFIX`.

use std::collections::BTreeSet;
use std::ffi::OsString;

use clap::{Command, CommandFactory};

use super::CommandLine;

/// The arguments with a second dash before every long flag of `tunnel` that has one; other arguments as they are.
pub(crate) fn corrected(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.collect();
    if arguments.get(1).is_none_or(|first| first != "tunnel") {
        return arguments;
    }
    let mut names = BTreeSet::from(["help".to_owned()]);
    if let Some(tunnel) = CommandLine::command().find_subcommand("tunnel") {
        collect(tunnel, &mut names);
    }
    for argument in arguments.iter_mut().skip(2) {
        if argument == "--" {
            break;
        }
        let Some(text) = argument.to_str().and_then(|text| text.strip_prefix('-')) else { continue };
        let name = text.split_once('=').map_or(text, |(name, _)| name);
        if name.len() > 1 && names.contains(name) {
            *argument = format!("--{text}").into();
        }
    }
    arguments
}

fn collect(command: &Command, names: &mut BTreeSet<String>) {
    for argument in command.get_arguments() {
        names.extend(argument.get_long().map(str::to_owned));
        names.extend(argument.get_all_aliases().into_iter().flatten().map(str::to_owned));
    }
    for subcommand in command.get_subcommands() {
        collect(subcommand, names);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(given: &str, expected: &str) {
        let given = given.split(' ').map(OsString::from);
        let expected: Vec<OsString> = expected.split(' ').map(OsString::from).collect();
        assert_eq!(corrected(given), expected);
    }

    #[test]
    fn a_long_flag_may_have_one_dash_under_tunnel() {
        check("adit tunnel -config f list -np team -o json", "adit tunnel --config f list --np team -o json");
        check("adit tunnel list -show-deleted -rd", "adit tunnel list --show-deleted --rd");
        check("adit tunnel vnet list -is-default=false", "adit tunnel vnet list --is-default=false");
        check("adit tunnel route ip add -vn blue -- -np", "adit tunnel route ip add --vn blue -- -np");
        check("adit tunnel list -nfoo", "adit tunnel list -nfoo");
        check("adit up -data d", "adit up -data d");
    }
}
