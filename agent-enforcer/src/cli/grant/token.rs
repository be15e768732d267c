//! `grant token`: signs a grant token, without a daemon.

use std::{
    num::NonZeroU32,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::Args;
use serde::Serialize;

use super::{lifetime, moment};
use crate::{
    cli::console::{Console, Exit, Failure},
    decision::Sha256Digest,
    resolver::{
        grant::token::{
            Action, Actor, Audience, Detail, DetailKind, Instance, LocationText, NumericDate,
            TokenClaims, TokenId, TokenText, sign_token,
        },
        text::{Name, Text},
    },
    rfc3339,
    signing::{KeyId, SigningKey, random},
};

/// Sign a grant token, and print it; no daemon needed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agent-enforcer grant token --key issuer.pem --kid broker-2030 --issuer https://broker.example \\
      --agent coder --tool github --on-behalf-of ada@example.com --audience host-7 --for 15m")]
#[command(group = clap::ArgGroup::new("target").required(true).multiple(true).args(["tools", "locations"]))]
pub(in crate::cli) struct TokenArgs {
    /// The issuer's private key, PKCS#8 in PEM, readable for its owner only.
    #[arg(long, value_name = "PEM")]
    key: PathBuf,
    /// What the policy calls the key [default: its thumbprint].
    #[arg(long, value_name = "KID")]
    kid: Option<KeyId>,
    /// The issuer, as the policy names it.
    #[arg(long, value_name = "ISSUER")]
    issuer: TokenText,
    /// The agent: its name, or its SPIFFE ID.
    #[arg(long, value_name = "AGENT")]
    agent: Text<2048>,
    /// Only one running instance, as `agent-enforcer agents` names it.
    #[arg(long, value_name = "i-ID")]
    instance: Option<Instance>,
    /// A tool of the policy; can be given more than once.
    #[arg(long = "tool", value_name = "NAME", value_delimiter = ',')]
    tools: Vec<Name>,
    /// A part of a tool, like 192.0.2.1:443/tcp; can be given more than once.
    #[arg(long = "location", value_name = "LOCATION", value_delimiter = ',')]
    locations: Vec<LocationText>,
    /// What may be done: `connect`, `listen`.
    #[arg(
        long = "action",
        value_name = "ACTION",
        default_value = "connect",
        value_delimiter = ','
    )]
    #[arg(value_parser = action)]
    actions: Vec<Action>,
    /// Who the agent acts for.
    #[arg(long, value_name = "PRINCIPAL")]
    on_behalf_of: TokenText,
    /// The host that it is for; can be given more than once.
    #[arg(long = "audience", value_name = "HOST", required = true)]
    audiences: Vec<TokenText>,
    /// How long it lasts: `90s`, `15m`.
    #[arg(long = "for", value_name = "DURATION", default_value = "15m", value_parser = lifetime)]
    lifetime: Duration,
    /// From when on, RFC 3339 [default: now].
    #[arg(long, value_name = "TIME", value_parser = moment)]
    not_before: Option<SystemTime>,
    /// How many calls it admits [default: any number].
    #[arg(long, value_name = "N")]
    max_uses: Option<NonZeroU32>,
    /// The `jti` of the token that it is made of, and stays within.
    #[arg(long, value_name = "JTI")]
    parent: Option<TokenId>,
    /// The digest of the manifest that the agent must have.
    #[arg(long, value_name = "SHA256")]
    manifest: Option<Sha256Digest>,
    /// The transaction that it belongs to.
    #[arg(long, value_name = "ID")]
    txn: Option<TokenId>,
    /// What for: a ticket, a job.
    #[arg(long, value_name = "TASK")]
    task: Option<TokenText>,
    /// Why it is given, for whoever reads the events later.
    #[arg(long, value_name = "TEXT")]
    reason: Option<TokenText>,
}

#[derive(Serialize)]
struct TokenView<'a> {
    token: &'a str,
    jti: &'a TokenId,
    expires: String,
}

/// Signs and prints.
pub(in crate::cli) fn sign(args: TokenArgs, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let key = SigningKey::load(&args.key, args.kid.clone())?;
    let claims = claims(args, SystemTime::now())?;
    let token = sign_token(&claims, &key).map_err(|error| {
        Failure::failed(error.to_string(), "docs/tokens.md says what a token may have")
    })?;
    let expires = rfc3339::render(claims.exp.moment());
    let view = TokenView { token: &token, jti: &claims.jti, expires };
    // Nothing but the token: it is for a variable or a file.
    console.show(&view, |view, _| format!("{}\n", view.token))
}

fn claims(args: TokenArgs, now: SystemTime) -> Result<TokenClaims, Failure> {
    let TokenArgs {
        key: _,
        kid: _,
        issuer,
        agent,
        instance,
        tools,
        locations,
        actions,
        on_behalf_of,
        audiences,
        lifetime,
        not_before,
        max_uses,
        parent,
        manifest,
        txn,
        task,
        reason,
    } = args;
    let date = |moment: Option<SystemTime>| {
        moment.and_then(NumericDate::of).ok_or_else(|| {
            Failure::usage("the token would end after the year 9999", "give an earlier time")
        })
    };
    let kind = DetailKind::NetworkEgress;
    let whole = Detail { kind, tools, locations: Vec::new(), actions: actions.clone() };
    let parts = Detail { kind, tools: Vec::new(), locations, actions };
    let named = |detail: &Detail| !detail.tools.is_empty() || !detail.locations.is_empty();
    Ok(TokenClaims {
        iss: issuer,
        sub: on_behalf_of,
        act: Actor { sub: agent, act: None },
        aud: match <[_; 1]>::try_from(audiences) {
            Ok([one]) => Audience::One(one),
            Err(some) => Audience::Any(some),
        },
        jti: new_id()?,
        txn,
        iat: date(Some(now))?,
        nbf: not_before.map(|moment| date(Some(moment))).transpose()?,
        exp: date(not_before.unwrap_or(now).checked_add(lifetime))?,
        authorization_details: [whole, parts].into_iter().filter(named).collect(),
        max_uses,
        manifest_sha256: manifest,
        parent_jti: parent,
        instance,
        task,
        reason,
    })
}

/// An id that nobody else gives out.
fn new_id() -> Result<TokenId, Failure> {
    let number = random().map(u128::from_be_bytes).map_err(|error| {
        Failure::failed(error.to_string(), "see that the system has started completely")
    })?;
    format!("{number:032x}").parse().map_err(|_no_id| {
        Failure::failed("no id could be made", "report it with `agent-enforcer --version`")
    })
}

fn action(text: &str) -> Result<Action, String> {
    match text {
        "connect" => Ok(Action::Connect),
        "listen" => Ok(Action::Listen),
        _ => Err("use connect or listen".to_owned()),
    }
}
