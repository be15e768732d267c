//! Keys, manifests and tokens on the command line: made, signed, verified, without a daemon.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use agent_enforcer::{
    cli::Exit,
    resolver::grant::token::{
        DEFAULT_CEILING, Issuer, Issuers, Location, ParentGrant, SKEW, TokenAgent, TokenContext,
        TokenWorld, ToolStanding, verify_token,
    },
    signing::KeySet,
};
use agent_enforcer_common::id::InstanceId;
use serde_json::Value;

use crate::command_line::{Answer, ask_with};

struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Words that begin with `@` are files of the desk.
    async fn ask(&self, line: &str) -> Answer {
        let words: Vec<String> = line
            .split_whitespace()
            .map(|word| match word.split_once('@') {
                Some((before, name)) if before.is_empty() || before.ends_with('=') => {
                    format!("{before}{}", self.path(name).display())
                }
                Some(_) | None => word.to_owned(),
            })
            .collect();
        ask_with(Path::new("/nowhere"), None, &words.iter().map(String::as_str).collect::<Vec<_>>())
            .await
    }

    async fn done(&self, line: &str) -> Answer {
        let answer = self.ask(line).await;
        assert_eq!(answer.exit, Exit::Done, "{line}: {}", answer.err);
        answer
    }

    /// A key, and its public part in a file beside it.
    async fn key(&self, name: &str, algorithm: &str) {
        let line = format!("key new --out @{name}.pem --alg {algorithm} --kid {name}");
        fs::write(self.path(&format!("{name}.jwk")), self.done(&line).await.out).unwrap();
    }
}

const NEW: &str = "manifest new --name coder --agent-id spiffe://example.org/agent/coder \
    --owner o --sponsor s --purpose p --tool git --software run=@run.py:script --valid-for 90d";

#[tokio::test]
async fn a_manifest_is_made_signed_verified_and_shown() {
    let desk = Desk::new();
    fs::write(desk.path("run.py"), "print()\n").unwrap();
    desk.key("one", "EdDSA").await;
    desk.key("two", "ES256").await;
    let made = desk.done(&format!("{NEW} --out @m.json --output json")).await.json();
    assert_eq!(made["signers"], Value::Array(Vec::new()));
    assert!(desk.done("manifest show @m.json").await.out.contains("signed by    -"));
    let once = desk.done("manifest sign @m.json --key @one.pem --kid one").await;
    assert!(once.out.contains("; signed by one; digest "), "{}", once.out);
    let twice = desk.done("manifest sign @m.json --key @two.pem --kid two --output json").await;
    assert_eq!(twice.json()["signers"], serde_json::json!(["one", "two"]));
    assert_eq!(twice.json()["digest"], made["digest"]);
    for keys in ["@one.jwk", "@two.jwk", "@one.jwk @two.jwk"] {
        let answer = desk.done(&format!("manifest verify @m.json --keys {keys}")).await;
        assert!(answer.out.contains("spiffe://example.org/agent/coder version 1, until "));
        assert!(answer.out.contains("holds, signed by "), "{}", answer.out);
    }
    let shown = desk.done("manifest show @m.json --output json").await.json();
    assert_eq!((&shown["digest"], &shown["reason"]), (&made["digest"], &Value::Null));
    assert_eq!(shown["signers"][1], serde_json::json!({ "kid": "two", "algorithm": "ES256" }));
    // `printf 'print()\n' | sha256sum`
    assert_eq!(
        shown["manifest"]["software"][0]["sha256"],
        "d8594fa1268ecabc62af7c9e2449b8c46db0f426cd9aad384c67efe59e582b3e"
    );
    let table = desk.done("manifest show @m.json").await.out;
    assert!(
        table.contains("counts, if its signatures are trusted")
            && table.contains("one (EdDSA), two (ES256)")
    );
}

#[tokio::test]
async fn a_manifest_that_does_not_count_exits_with_1_and_its_word() {
    let desk = Desk::new();
    fs::write(desk.path("run.py"), "").unwrap();
    desk.key("one", "EdDSA").await;
    desk.key("two", "EdDSA").await;
    let made = |more: &str| format!("{NEW} --out @m.json {more}");
    for (more, word) in [
        ("--lifecycle suspended", "manifest_suspended"),
        ("--lifecycle revoked", "manifest_revoked"),
    ] {
        desk.done(&made(more)).await;
        desk.done("manifest sign @m.json --key @one.pem --kid one").await;
        let answer = desk.ask("manifest verify @m.json --keys @one.jwk --output json").await;
        assert_eq!((answer.exit, answer.out.as_str()), (Exit::Failed, ""));
        let error: Value = serde_json::from_str(&answer.err).unwrap();
        assert_eq!(error["reason"], word);
        assert!(!answer.failure().1.is_empty());
        assert!(desk.done("manifest show @m.json").await.out.contains(word));
        fs::remove_file(desk.path("m.json")).unwrap();
    }
    desk.done(&made("")).await;
    let unsigned = desk.ask("manifest verify @m.json --keys @one.jwk").await;
    assert!(unsigned.exit == Exit::Failed && unsigned.err.contains("nobody has signed"));
    desk.done("manifest sign @m.json --key @one.pem --kid one").await;
    let other = desk.ask("manifest verify @m.json --keys @two.jwk").await;
    assert_eq!(other.exit, Exit::Failed);
    assert!(
        other.err.starts_with("error: manifest_untrusted: no key that may sign"),
        "{}",
        other.err
    );
    let text = fs::read_to_string(desk.path("m.json")).unwrap();
    fs::write(desk.path("m.json"), text.replace("\"purpose\": \"p\"", "\"purpose\": \"q\""))
        .unwrap();
    let changed = desk.ask("manifest verify @m.json --keys @one.jwk").await;
    assert!(
        changed.err.starts_with("error: manifest_untrusted: the signature is not that of key one"),
        "{}",
        changed.err
    );
}

#[tokio::test]
async fn what_is_wrong_with_a_file_is_told_with_its_place() {
    let desk = Desk::new();
    fs::write(desk.path("run.py"), "").unwrap();
    desk.key("one", "EdDSA").await;
    fs::write(desk.path("bad.json"), "{\"schema\": \"agent-enforcer/manifest/v1\",\n \"nom\": 1}")
        .unwrap();
    fs::write(desk.path("two.jwk"), "{\"keys\": [{\"kty\": \"OKP\", \"d\": \"x\"}]}").unwrap();
    desk.done(&format!("{NEW} --out @m.json")).await;
    for (line, expected) in [
        (
            "manifest show @bad.json",
            "bad.json: $.nom (line 2, column 6): member `nom` is not known",
        ),
        ("manifest sign @bad.json --key @one.pem", "bad.json: $.nom (line 2"),
        ("manifest verify @bad.json --keys @one.jwk", "bad.json: $.nom (line 2"),
        ("manifest verify @m.json --keys @two.jwk", "private member `d`"),
        ("manifest verify @m.json --keys @one.jwk @one.jwk", "two keys are called one"),
        ("manifest verify @m.json --keys @none", "none can't be read"),
        ("manifest show @none", "none can't be read"),
        ("manifest sign @m.json --key @m.json", "m.json is open to others"),
        ("key show @none", "none can't be read"),
        ("key new --out @one.pem", "one.pem is there already"),
    ] {
        let answer = desk.ask(line).await;
        assert_eq!((answer.exit, answer.out.as_str()), (Exit::Failed, ""), "{line}");
        assert!(answer.err.contains(expected), "{line}: {}", answer.err);
        let answer = desk.ask(&format!("{line} --output json")).await;
        assert!(answer.failure().0.contains(expected), "{line}: {}", answer.err);
    }
    let again = desk.ask(&format!("{NEW} --out @m.json")).await;
    assert!(again.exit == Exit::Failed && again.err.contains("m.json can't be written"));
    let missing = desk.ask(&NEW.replace("@run.py", "@missing")).await;
    assert!(missing.exit == Exit::Failed && missing.err.contains("missing can't be hashed"));
    let printed = desk.done(NEW).await;
    assert_eq!(printed.json()["schema"], "agent-enforcer/manifest/v1");
}

#[tokio::test]
async fn a_key_is_shown_as_it_was_made() {
    let desk = Desk::new();
    for algorithm in ["EdDSA", "ES256"] {
        desk.key(algorithm, algorithm).await;
        let made = fs::read_to_string(desk.path(&format!("{algorithm}.jwk"))).unwrap();
        let shown = desk.done(&format!("key show @{algorithm}.pem --kid {algorithm}")).await.out;
        assert_eq!(shown, made);
        let unnamed = desk.done(&format!("key show @{algorithm}.pem --output json")).await.json();
        assert_eq!(unnamed["kid"].as_str().unwrap().len(), 43);
        assert_eq!(unnamed["alg"], algorithm);
        assert!(unnamed.get("d").is_none());
    }
}

/// A host on which `coder` may use `git`.
struct Host;

impl TokenWorld for Host {
    fn agent(&self, actor: &str) -> Option<TokenAgent> {
        let agent = TokenAgent { name: "coder".into(), ceiling: DEFAULT_CEILING, manifest: None };
        (actor == "coder").then_some(agent)
    }

    fn runs(&self, _: &str, _: InstanceId) -> bool {
        false
    }

    fn tool(&self, _: &str, tool: &str) -> ToolStanding {
        if tool == "git" { ToolStanding::Approved } else { ToolStanding::Unknown }
    }

    fn tool_of(&self, location: &Location) -> Option<Arc<str>> {
        (location.to_string() == "192.0.2.1:443/tcp").then(|| "git".into())
    }

    fn was_seen(&self, _: &str) -> bool {
        false
    }

    fn parent(&self, _: &str) -> Option<ParentGrant> {
        None
    }
}

#[tokio::test]
async fn a_token_of_the_command_line_holds_on_a_host() {
    const TOKEN: &str = "grant token --key @k.pem --kid k --issuer broker --agent coder --tool git \
        --location 192.0.2.1:443/tcp --on-behalf-of ada --audience host-7 --for 5m --max-uses 2 \
        --task T-1 --reason r";
    let desk = Desk::new();
    desk.key("k", "ES256").await;
    let keys = KeySet::from_json(&fs::read(desk.path("k.jwk")).unwrap()).unwrap();
    let issuer = Issuer {
        name: "broker".into(),
        keys,
        agents: vec!["coder".into()],
        tools: vec!["git".into()],
        must_attenuate: false,
    };
    let issuers = Issuers::new(vec![issuer]).unwrap();
    let now = SystemTime::now();
    let context =
        TokenContext { issuers: &issuers, audience: "host-7", now, skew: SKEW, world: &Host };
    let printed = desk.done(TOKEN).await.out;
    let token = verify_token(printed.trim_end(), &context).unwrap();
    assert_eq!((&*token.agent, &*token.principal, token.max_uses), ("coder", "ada", Some(2)));
    assert_eq!((token.scope.tools.len(), token.scope.locations.len()), (1, 1));
    assert_eq!(token.expires.duration_since(token.not_before).unwrap(), Duration::from_mins(5));
    assert_eq!(token.task.as_deref(), Some("T-1"));
    let document = desk.done(&format!("{TOKEN} --output json")).await.json();
    let again = verify_token(document["token"].as_str().unwrap(), &context).unwrap();
    assert_eq!(Some(&*again.jti), document["jti"].as_str());
    assert_ne!(again.jti, token.jti);
    let refused = verify_token(&printed, &context).unwrap_err();
    assert_eq!(refused.word(), "token_malformed", "the newline is no part of it");
}
