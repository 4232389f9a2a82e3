//! The command line of the commands for people: verb, kind, name. Flags of kinds come from the table of kinds.

use std::marker::PhantomData;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, Subcommand};
use serde_json::{Map, Value};

use super::kind::{Field, KINDS, Kind, Shape, When};
use super::print::Format;
use super::problem::Problem;
use super::session::InstallationFlags;

/// How to print.
#[derive(Debug, Args, Clone, Copy)]
pub(crate) struct OutputFlags {
    /// How to print
    #[arg(long, short = 'o', global = true, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct GetCommand {
    /// What: tunnels, routes, virtual-networks, hostnames, lists, rules, service-tokens, devices, tokens,
    /// tunnel-configurations or audit-records
    #[arg(value_name = "KIND", value_parser = kind)]
    pub(crate) kind: &'static Kind,
    /// Names or ids; all of them if none is given
    #[arg(value_name = "NAME|ID")]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    pub(crate) output: OutputFlags,
    #[command(flatten)]
    pub(crate) installation: InstallationFlags,
}

#[derive(Debug, Args)]
pub(crate) struct CreateCommand {
    #[command(flatten)]
    pub(crate) output: OutputFlags,
    #[command(flatten)]
    pub(crate) installation: InstallationFlags,
    #[command(subcommand)]
    pub(crate) chosen: Chosen<Create>,
}

#[derive(Debug, Args)]
pub(crate) struct EditCommand {
    #[command(flatten)]
    pub(crate) output: OutputFlags,
    #[command(flatten)]
    pub(crate) installation: InstallationFlags,
    #[command(subcommand)]
    pub(crate) chosen: Chosen<Edit>,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteCommand {
    /// What, such as route
    #[arg(value_name = "KIND", value_parser = kind)]
    pub(crate) kind: &'static Kind,
    /// Names or ids
    #[arg(value_name = "NAME|ID", required = true)]
    pub(crate) names: Vec<String>,
    /// With what hangs on it: a tunnel's connections, routes and host names, a virtual network's routes
    #[arg(long)]
    pub(crate) cascade: bool,
    #[command(flatten)]
    pub(crate) installation: InstallationFlags,
}

#[derive(Debug, Args)]
pub(crate) struct LoginCommand {
    /// Overwrite the profile that is there
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) installation: InstallationFlags,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsCommand {
    /// bash, zsh, fish, elvish or powershell
    #[arg(value_name = "SHELL")]
    pub(crate) shell: clap_complete::Shell,
}

/// Files to read.
#[derive(Debug, Args)]
pub(crate) struct FileFlags {
    /// YAML file, or directory of *.yaml and *.yml files; may be repeated; - is standard input
    #[arg(long = "filename", short = 'f', value_name = "FILE|DIR", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// Also delete what the files do not have, of the kinds that they have
    #[arg(long)]
    pub(crate) prune: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ApplyCommand {
    #[command(flatten)]
    pub(crate) files: FileFlags,
    /// Do not ask before anything is deleted
    #[arg(long, short = 'y')]
    pub(crate) yes: bool,
    /// Write the secrets of new tunnels and service tokens to this new file (0600), instead of printing them
    #[arg(long, value_name = "FILE")]
    pub(crate) secrets: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) installation: InstallationFlags,
}

#[derive(Debug, Args)]
pub(crate) struct DiffCommand {
    #[command(flatten)]
    pub(crate) files: FileFlags,
    #[command(flatten)]
    pub(crate) installation: InstallationFlags,
}

#[derive(Debug, Args)]
pub(crate) struct ExportCommand {
    /// Only these kinds; may be repeated [default: all that files can have]
    #[arg(value_name = "KIND", value_parser = kind)]
    pub(crate) kinds: Vec<&'static Kind>,
    #[command(flatten)]
    pub(crate) installation: InstallationFlags,
}

fn kind(text: &str) -> Result<&'static Kind, String> {
    Kind::named(text).ok_or_else(|| {
        let names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
        format!("expected one of {}", names.join(", "))
    })
}

/// What is done to a kind that is chosen by a subcommand.
pub(crate) trait Verb {
    const NAME: &'static str;
    fn offers(kind: &Kind) -> bool;
    fn takes(when: When) -> bool;
    fn requires(when: When) -> bool;
    fn key_is_option() -> bool;
}

/// `adit create`.
#[derive(Debug)]
pub(crate) struct Create;

impl Verb for Create {
    const NAME: &'static str = "create";
    fn offers(kind: &Kind) -> bool {
        kind.can_create()
    }
    fn takes(_when: When) -> bool {
        true
    }
    fn requires(when: When) -> bool {
        when.is_required()
    }
    fn key_is_option() -> bool {
        false
    }
}

/// `adit edit`.
#[derive(Debug)]
pub(crate) struct Edit;

impl Verb for Edit {
    const NAME: &'static str = "edit";
    fn offers(kind: &Kind) -> bool {
        kind.can_edit()
    }
    fn takes(when: When) -> bool {
        when.can_change()
    }
    fn requires(_when: When) -> bool {
        false
    }
    fn key_is_option() -> bool {
        true
    }
}

/// A kind, the object's name, and the fields that were typed.
#[derive(Debug)]
pub(crate) struct Chosen<V> {
    pub(crate) kind: &'static Kind,
    pub(crate) name: String,
    pub(crate) fields: Map<String, Value>,
    verb: PhantomData<V>,
}

impl<V: Verb> Subcommand for Chosen<V> {
    fn augment_subcommands(command: Command) -> Command {
        let offered = KINDS.iter().filter(|kind| V::offers(kind));
        command
            .subcommand_required(true)
            .arg_required_else_help(true)
            .subcommand_value_name("KIND")
            .subcommand_help_heading("Kinds")
            .disable_help_subcommand(true)
            .subcommands(offered.map(subcommand::<V>))
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        Self::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        Kind::named(name).is_some_and(V::offers)
    }
}

impl<V: Verb> FromArgMatches for Chosen<V> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let missing = || clap::Error::new(clap::error::ErrorKind::MissingSubcommand);
        let (name, matches) = matches.subcommand().ok_or_else(missing)?;
        let kind = Kind::named(name).ok_or_else(missing)?;
        let mut fields = Map::new();
        for field in kind.fields.iter().filter(|field| V::takes(field.when)) {
            if let Some(value) = typed(field, matches).map_err(|problem| {
                clap::Error::raw(clap::error::ErrorKind::ValueValidation, format!("{}\n", problem.text))
            })? {
                fields.insert(field.api.to_owned(), value);
            }
        }
        if renames::<V>(kind)
            && let Some(key) = matches.get_one::<String>(kind.key)
        {
            fields.insert(kind.key.to_owned(), key.clone().into());
        }
        let name = matches.get_one::<String>(OBJECT).cloned().unwrap_or_default();
        Ok(Self { kind, name, fields, verb: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Whether the key of an object of this kind can be changed.
fn renames<V: Verb>(kind: &Kind) -> bool {
    V::key_is_option() && !matches!(kind.name, "hostname" | "tunnel-configuration")
}

fn subcommand<V: Verb>(kind: &'static Kind) -> Command {
    let title =
        if V::key_is_option() { format!("{}|ID", kind.key.to_uppercase()) } else { kind.key.to_uppercase() };
    let example = kind.example.split_once(' ').map_or(kind.example, |(_, rest)| rest);
    let example = match V::NAME {
        "edit" => example.split(" --").next().unwrap_or(example).to_owned() + &edit_example::<V>(kind),
        _ => example.to_owned(),
    };
    let mut command = Command::new(kind.name)
        .about(kind.about)
        .visible_aliases(kind.aliases.iter().take(1).copied())
        .aliases(kind.aliases.iter().skip(1).copied())
        .after_help(format!("Examples:\n  adit {} {example}", V::NAME))
        .arg(Arg::new(OBJECT).value_name(title).help(kind.key_help).required(true));
    if renames::<V>(kind) {
        command = command
            .arg(Arg::new(kind.key).long(kind.key).value_name("NEW").help(format!("New {}", kind.key)));
    }
    command.args(kind.fields.iter().filter(|field| V::takes(field.when)).map(|field| {
        let name = field.key.replace('_', "-");
        let arg = Arg::new(field.key).long(name).help(field.help).required(V::requires(field.when));
        match field.shape {
            Shape::Flag => arg
                .action(ArgAction::Set)
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .value_parser(clap::value_parser!(bool))
                .value_name("true|false"),
            Shape::Number => arg.value_parser(clap::value_parser!(u64)).value_name("N"),
            Shape::Texts | Shape::Items => arg.action(ArgAction::Append).value_name("VALUE"),
            Shape::Reference(_) => arg.value_name("NAME|ID"),
            Shape::Object => arg.value_name("YAML"),
            Shape::Expression => arg.value_name("EXPRESSION"),
            Shape::Text => arg.value_name("TEXT"),
        }
    }))
}

/// A change that can be made to an object of this kind, as flags.
fn edit_example<V: Verb>(kind: &Kind) -> String {
    let first = kind.fields.iter().filter(|field| V::takes(field.when)).find_map(|field| match field.shape {
        Shape::Text => Some(format!(" --{} TEXT", field.key.replace('_', "-"))),
        Shape::Reference(_) => Some(format!(" --{} NAME", field.key.replace('_', "-"))),
        Shape::Object => {
            Some(format!(" --{} '{{ingress: [{{service: \"http://localhost:8080\"}}]}}'", field.key))
        }
        Shape::Flag | Shape::Number | Shape::Expression | Shape::Texts | Shape::Items => None,
    });
    first.unwrap_or_else(|| format!(" --{} NEW", kind.key))
}

/// What was typed for a field, in the API's form.
fn typed(field: &Field, matches: &ArgMatches) -> Result<Option<Value>, Problem> {
    Ok(match field.shape {
        Shape::Flag => matches.get_one::<bool>(field.key).map(|flag| Value::from(*flag)),
        Shape::Number => matches.get_one::<u64>(field.key).map(|number| Value::from(*number)),
        Shape::Texts | Shape::Items => matches.get_many::<String>(field.key).map(|values| {
            let as_item = |value: &String| {
                if field.shape == Shape::Items {
                    serde_json::json!({ "value": value })
                } else {
                    value.clone().into()
                }
            };
            values.map(as_item).collect()
        }),
        Shape::Object => match matches.get_one::<String>(field.key) {
            None => None,
            Some(text) => Some(serde_saphyr::from_str(text).map_err(|error| {
                let error = error.to_string();
                let line = error.lines().next().unwrap_or_default();
                Problem::usage(format!(
                    "--{}: expected an object as YAML or JSON: {line}",
                    field.key.replace('_', "-")
                ))
            })?),
        },
        Shape::Text | Shape::Reference(_) | Shape::Expression => {
            matches.get_one::<String>(field.key).map(|text| text.clone().into())
        }
    })
}

/// The id of the argument that names the object.
const OBJECT: &str = "object";
