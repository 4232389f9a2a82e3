//! `terraform-provider-adit`: started by Terraform, which is told on standard output where to find it.

use std::process::ExitCode;

use adit_terraform::plugin;

fn main() -> ExitCode {
    plugin::main()
}
