//! The one binary: flags, files, wiring, printing.
//!
//! Everything that a person types or reads stands here; what the programs do is in the crates. An error becomes one line
//! here: what, where, what was expected, what to do.

mod access;
mod account;
mod agent;
mod apply;
mod authority;
mod backup;
mod certificates;
mod command_line;
mod dns_upstreams;
mod edge;
mod explain;
mod ingress;
mod inspection;
mod listener;
mod log;
mod manage;
mod management;
mod node;
mod nodes;
mod policy;
mod records;
mod shutdown;
mod table;
mod threads;
mod tunnel;
mod up;

use std::process::ExitCode;

use clap::Parser;
use command_line::{AditCommand, CommandLine};

fn main() -> ExitCode {
    let parsed = match CommandLine::try_parse_from(command_line::corrected(std::env::args_os())) {
        Ok(parsed) => parsed,
        Err(error) => return command_line::explain(&error),
    };
    // Every role moves chunks of up to 256 KiB, and is to move them, not to get fresh memory for each.
    adit_agent::tune_allocator();
    let result = match parsed.command {
        AditCommand::Up(flags) => up::run(*flags),
        AditCommand::Edge(flags) => edge::run(*flags),
        AditCommand::Node(command) => node::run(command),
        AditCommand::Tunnel(command) => tunnel::run(*command),
        AditCommand::Agent(command) => agent::run(command),
        AditCommand::Access(command) => access::run(command),
        AditCommand::Account(command) => account::run(command),
        AditCommand::Backup(command) => backup::run(&command),
        AditCommand::Policy(command) => policy::run(command),
        AditCommand::Explain(command) => match explain::run(&command) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        AditCommand::Get(command) => manage::get(command),
        AditCommand::Create(command) => manage::create(command),
        AditCommand::Edit(command) => manage::edit(command),
        AditCommand::Delete(command) => manage::delete(command),
        AditCommand::Apply(command) => apply::apply(&command),
        AditCommand::Diff(command) => match apply::diff(&command) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        AditCommand::Export(command) => apply::export(&command),
        AditCommand::Login(command) => manage::login(command),
        AditCommand::Completions(command) => {
            manage::completions(&command);
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => command_line::complain(&error),
    }
}
