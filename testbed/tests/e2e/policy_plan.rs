//! `adit policy plan` says which recorded flows a change would decide otherwise, and changes nothing.

use adit_testbed::chain::Chain;
use adit_testbed::net::api_address;
use adit_testbed::origin::{self, Origin};
use http::Method;
use serde_json::{Value, json};

use crate::gateway::soon;
use crate::records::records;

const PORT: u16 = 9000;
const OTHER: u16 = 9001;

async fn plan(chain: &Chain, file: &str, args: &[&str]) -> String {
    let path = chain.dir().join("rules.yaml");
    std::fs::write(&path, file).unwrap();
    let mut command = chain.adit(&chain.world.edge);
    command.args(["policy", "plan"]).arg(path).arg("--data").arg(chain.data()).args(args);
    let output = tokio::process::Command::from(command).kill_on_drop(true).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_names_the_recorded_flows_that_a_rule_would_block_and_changes_nothing() {
    let chain = Chain::start().await.unwrap();
    let [v4, v6] = api_address(PORT);
    let [other, _] = api_address(OTHER);
    let _origin = Origin::start(&chain.world.cluster, &[v4, v6, other]).unwrap();
    for address in [v4, v4, v6, other] {
        drop(origin::open_echo(chain.world.laptop.connect(address).await.unwrap()).await.unwrap());
    }
    soon("recorded", async || records(&chain, "zero_trust_network_sessions", "limit=10").await.len() >= 4)
        .await;
    let rules = format!(
        "kind: list\nname: servers\ntype: IP\nitems:\n- {}\n---\nkind: rule\nname: not there\naction: block\nfilters: [l4]\nprecedence: 10\nenabled: true\n\
         traffic: net.dst.ip in ${{list.servers}} and net.dst.port == {PORT}\n",
        v4.ip()
    );
    let printed = plan(&chain, &rules, &["--output", "json"]).await;
    let planned: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((&planned["different"], &planned["complete"]), (&json!(2), &json!(true)), "{planned:#}");
    let [group] = planned["groups"].as_array().unwrap().as_slice() else { panic!("{planned:#}") };
    assert_eq!(group["before"], json!({ "effect": "allow", "rule_id": null, "rule_name": null }));
    assert_eq!(
        (&group["after"]["effect"], &group["after"]["rule_name"]),
        (&json!("block"), &json!("not there"))
    );
    assert_eq!((&group["destination_ip"], &group["destination_port"]), (&json!(v4.ip()), &json!(PORT)));
    assert_eq!((&group["count"], group["examples"].as_array().unwrap().len()), (&json!(2), 2));
    let words = plan(&chain, &rules, &["--since", "1h"]).await;
    assert!(words.contains("block by \"not there\"") && words.contains("2 of"), "{words}");
    let found = chain.call(Method::GET, "gateway/rules", None).await.unwrap();
    assert_eq!(found, json!([]), "nothing was made");
    assert_eq!(chain.call(Method::GET, "gateway/lists", None).await.unwrap(), json!([]));
    drop(origin::open_echo(chain.world.laptop.connect(v4).await.unwrap()).await.unwrap());

    // What a rule would ask of the client's first words was not recorded: that is said, and not guessed.
    let named = "kind: rule\nname: by name\naction: block\nfilters: [l4]\nprecedence: 10\nenabled: true\n\
                 traffic: net.sni.host == \"a.example\"\n";
    let planned: Value = serde_json::from_str(&plan(&chain, named, &["--output", "json"]).await).unwrap();
    assert_eq!(planned["different"], 0);
    assert!(
        planned["unknown"]["what the client said first was not recorded"].as_u64() >= Some(4),
        "{planned:#}"
    );
}
