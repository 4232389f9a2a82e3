//! The connector's flags that are told to nobody else: made from the connector's own table, so that a flag is a key of the
//! file too and is defined once.

use std::collections::BTreeMap;

use adit_connector::config::{FLAGS, Flag, Kind};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

/// What was typed, or said by variables.
#[derive(Clone, Default)]
pub(crate) struct ConnectorFlags {
    settings: BTreeMap<&'static str, Vec<String>>,
}

impl std::fmt::Debug for ConnectorFlags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the values: one is a secret.
        f.debug_set().entries(self.settings.keys()).finish()
    }
}

impl ConnectorFlags {
    /// What was said, by the flags' names.
    pub(crate) fn into_settings(self) -> BTreeMap<&'static str, Vec<String>> {
        self.settings
    }

    /// The text of one flag.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.settings.get(name).and_then(|texts| texts.last()).map(String::as_str)
    }
}

fn argument(flag: &'static Flag) -> Arg {
    let argument = Arg::new(flag.name)
        .long(flag.name)
        .aliases(flag.aliases.iter().copied())
        .global(true)
        .hide(flag.help.is_empty())
        .hide_env_values(flag.name == "token")
        .help(flag.help);
    let argument = match flag.variables.first() {
        Some(variable) => argument.env(*variable),
        None => argument,
    };
    match flag.kind {
        Kind::Text => argument.value_name("TEXT"),
        Kind::Number => argument.value_name("N"),
        Kind::Duration => argument.value_name("DURATION"),
        Kind::Texts => argument.value_name("TEXT").action(ArgAction::Append),
        // A value only behind an equals sign, so that the command may follow.
        Kind::Switch => {
            argument.num_args(0..=1).require_equals(true).default_missing_value("true").value_name("BOOL")
        }
    }
}

impl Args for ConnectorFlags {
    fn augment_args(command: Command) -> Command {
        command.args(FLAGS.iter().map(argument))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ConnectorFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for flag in FLAGS {
            let typed = matches.get_many::<String>(flag.name).into_iter().flatten().cloned();
            let mut texts: Vec<String> = typed.collect();
            if texts.is_empty() {
                // The first variable is known to the parser.
                texts = flag
                    .variables
                    .iter()
                    .skip(1)
                    .find_map(|name| std::env::var(name).ok())
                    .into_iter()
                    .collect();
            }
            if flag.kind == Kind::Texts {
                texts = texts
                    .iter()
                    .flat_map(|text| text.split(','))
                    .map(|text| text.trim().to_owned())
                    .collect();
            }
            if !texts.is_empty() {
                self.settings.insert(flag.name, texts);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{AditCommand, CommandLine, TunnelAction};
    use super::*;

    fn flags(line: &str) -> ConnectorFlags {
        let parsed = CommandLine::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{error}"));
        let AditCommand::Tunnel(command) = parsed.command else { panic!("{line}") };
        assert!(matches!(command.action, TunnelAction::Run { .. }), "{line}");
        command.connector
    }

    #[test]
    fn a_switch_takes_no_command_for_its_value() {
        let flags = flags("adit tunnel --no-autoupdate --hello-world --post-quantum=false run");
        assert_eq!(flags.text("no-autoupdate"), Some("true"));
        assert_eq!(flags.text("hello-world"), Some("true"));
        assert_eq!(flags.text("post-quantum"), Some("false"));
    }

    #[test]
    fn a_flag_stands_before_or_behind_run() {
        for line in ["adit tunnel --token abc run", "adit tunnel run --token abc"] {
            assert_eq!(flags(line).text("token"), Some("abc"), "{line}");
            assert!(!format!("{:?}", flags(line)).contains("abc"));
        }
        let tags = flags("adit tunnel --tag a=1,b=2 --tag c=3 run").into_settings();
        assert_eq!(tags.get("tag"), Some(&vec!["a=1".to_owned(), "b=2".to_owned(), "c=3".to_owned()]));
    }
}
