//! The engine as operators reach it: durable first, then in force, then answered.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot, watch};

use super::{Answer, Message};
use crate::{
    control::{
        AgentView, AnswerSpec, AnswerView, ApproverUsers, Authority, Control, ControlError,
        EventFeed, ExplainQuestion, Explanation, GrantSpec, GrantView, PendingView, PolicyView,
        Reply, Status,
    },
    decision::parse_grant,
    events::{DaemonEvent, Event, EventQueue, TokenRefused, WebhookFacts},
    intake::Inbox,
    resolver::{
        approval::Answer as ApproverAnswer,
        grant::{GrantStore, GrantStoreError, Moment, check_reason, token::TokenRefusal},
        policy::Policy,
    },
    webhook::Desk,
};

/// How long the engine may take for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What ends the daemon on command.
#[derive(Debug)]
pub struct DetachOrder {
    /// Why, as the operator put it.
    pub reason: String,
    /// Told when enforcement has ended, or why it has not.
    pub done: Answer<()>,
}

/// See the module's header.
#[derive(Clone)]
pub struct EngineHandle {
    inbox: Inbox,
    store: Arc<GrantStore>,
    events: EventQueue,
    policy_dir: PathBuf,
    pending_changes: watch::Receiver<u64>,
    approvers: Arc<ApproverUsers>,
    detach: mpsc::Sender<DetachOrder>,
}

impl EngineHandle {
    /// A handle on a running engine.
    pub const fn new(
        inbox: Inbox,
        store: Arc<GrantStore>,
        events: EventQueue,
        policy_dir: PathBuf,
        pending_changes: watch::Receiver<u64>,
        approvers: Arc<ApproverUsers>,
        detach: mpsc::Sender<DetachOrder>,
    ) -> Self {
        Self { inbox, store, events, policy_dir, pending_changes, approvers, detach }
    }

    async fn ask<T>(&self, message: impl FnOnce(Answer<T>) -> Message) -> Result<T, ControlError> {
        let (answer, answered) = oneshot::channel();
        self.inbox
            .send(message(answer))
            .map_err(|error| ControlError::Unavailable(error.to_string()))?;
        match tokio::time::timeout(PATIENCE, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_dropped)) => {
                Err(ControlError::Unavailable("the daemon is stopping; start it again".to_owned()))
            }
            Err(_elapsed) => {
                Err(ControlError::Unavailable("the daemon does not answer; see its log".to_owned()))
            }
        }
    }

    async fn issue(&self, spec: GrantSpec) -> Result<GrantView, ControlError> {
        let now = moment()?;
        let new = self.ask(|answer| Message::CheckGrant(spec, Box::new(now), answer)).await?;
        let store = Arc::clone(&self.store);
        let grant = blocking(move || store.issue(new)).await?.map_err(|error| stored(&error))?;
        self.ask(|answer| Message::GrantChanged(Box::new(grant), answer)).await
    }

    async fn present(&self, token: String) -> Result<GrantView, ControlError> {
        let now = moment()?;
        let new = self.ask(|answer| Message::CheckToken(token, Box::new(now), answer)).await?;
        let store = Arc::clone(&self.store);
        let grant = blocking(move || store.issue(new)).await?.map_err(|error| {
            // Two came at once: the engine had seen neither.
            if let GrantStoreError::Replayed(jti) = &error {
                let refusal = TokenRefusal::Replayed(jti.clone());
                let refused = TokenRefused::from(&refusal);
                self.events.push(Event::from(DaemonEvent::GrantRefused(Box::new(refused))));
            }
            stored(&error)
        })?;
        self.ask(|answer| Message::GrantChanged(Box::new(grant), answer)).await
    }

    async fn revoke(&self, grant: String, reason: String) -> Result<GrantView, ControlError> {
        let id = parse_grant(&grant).ok_or_else(|| {
            ControlError::Invalid(format!("`{grant}` is no grant id; they look like g-42"))
        })?;
        check_reason(&reason).map_err(|error| ControlError::Invalid(error.to_string()))?;
        let now = moment()?;
        let store = Arc::clone(&self.store);
        let grant = blocking(move || store.revoke(id, &reason, &now))
            .await?
            .map_err(|error| stored(&error))?;
        self.ask(|answer| Message::GrantChanged(Box::new(grant), answer)).await
    }

    async fn record_answer(
        &self,
        spec: AnswerSpec,
        authority: Authority,
    ) -> Result<AnswerView, ControlError> {
        let now = moment()?;
        let at = now.clone();
        let check = |answer| Message::CheckAnswer(spec, authority, Box::new(at), answer);
        self.keep_answer(self.ask(check).await?, now).await
    }

    async fn keep_answer(
        &self,
        answer: ApproverAnswer,
        now: Moment,
    ) -> Result<AnswerView, ControlError> {
        let store = Arc::clone(&self.store);
        let answer = blocking(move || store.record_answer(&answer, &now).map(|()| answer))
            .await?
            .map_err(|error| stored(&error))?;
        self.ask(|told| Message::Answered(Box::new(answer), told)).await
    }

    /// Reads the policy directory again.
    pub async fn reload(&self) -> Result<PolicyView, ControlError> {
        let directory = self.policy_dir.clone();
        let mut policy = match blocking(move || Policy::load(&directory)).await? {
            Ok(policy) => policy,
            Err(errors) => {
                let error = errors.to_string();
                let told = self.inbox.send(Message::PolicyRejected(error.clone()));
                told.map_err(|error| ControlError::Unavailable(error.to_string()))?;
                return Err(ControlError::Invalid(error));
            }
        };
        let store = Arc::clone(&self.store);
        let names: Vec<_> = policy.agents().iter().map(|agent| Arc::clone(&agent.name)).collect();
        let now = moment()?;
        let prepare = move || {
            store.admit_manifests(&mut policy, &now)?;
            let ids = store.agent_ids(names.iter().map(AsRef::as_ref))?;
            Ok((policy, ids))
        };
        let prepared = blocking(prepare).await?;
        let (policy, ids) = prepared.map_err(|error: GrantStoreError| stored(&error))?;
        let ids = ids.into_iter().collect();
        self.ask(|answer| Message::NewPolicy(Box::new(policy), ids, answer)).await
    }

    async fn end(&self, reason: String) -> Result<(), ControlError> {
        let (done, told) = oneshot::channel();
        let stopping = || ControlError::Unavailable("the daemon is stopping already".to_owned());
        self.detach.send(DetachOrder { reason, done }).await.map_err(|_closed| stopping())?;
        told.await.map_err(|_dropped| stopping())?
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ControlError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        ControlError::Internal(format!("the daemon failed at this command: {error}"))
    })
}

fn moment() -> Result<Moment, ControlError> {
    Moment::now().map_err(|error| ControlError::Internal(error.to_string()))
}

fn stored(error: &GrantStoreError) -> ControlError {
    match error {
        GrantStoreError::UnknownGrant(_) => ControlError::NotFound(error.to_string()),
        GrantStoreError::Replayed(_) => ControlError::Invalid(error.to_string()),
        GrantStoreError::Directory { .. }
        | GrantStoreError::DirectoryExposed { .. }
        | GrantStoreError::File { .. }
        | GrantStoreError::NotAFile { .. }
        | GrantStoreError::FileExposed { .. }
        | GrantStoreError::Locked { .. }
        | GrantStoreError::Corrupted { .. }
        | GrantStoreError::Version { .. }
        | GrantStoreError::Storage { .. }
        | GrantStoreError::Use { .. }
        | GrantStoreError::Exhausted(..) => ControlError::Internal(error.to_string()),
    }
}

impl Desk for EngineHandle {
    async fn take(&self, answer: String) -> Result<(), ControlError> {
        let now = moment()?;
        let at = now.clone();
        let check = |checked| Message::CheckSignedAnswer(answer, Box::new(at), checked);
        self.keep_answer(self.ask(check).await?, now).await.map(drop)
    }

    fn failed(&self, facts: WebhookFacts) {
        self.events.push(Event::from(DaemonEvent::WebhookFailed(Box::new(facts))));
    }
}

impl Control for EngineHandle {
    fn status(&self) -> Reply<'_, Status> {
        Box::pin(self.ask(Message::Status))
    }

    fn agents(&self) -> Reply<'_, Vec<AgentView>> {
        Box::pin(self.ask(Message::Agents))
    }

    fn policy_show(&self) -> Reply<'_, PolicyView> {
        Box::pin(self.ask(Message::PolicyShow))
    }

    fn policy_reload(&self) -> Reply<'_, PolicyView> {
        Box::pin(self.reload())
    }

    fn grant_issue(&self, spec: GrantSpec) -> Reply<'_, GrantView> {
        Box::pin(self.issue(spec))
    }

    fn grant_present(&self, token: String) -> Reply<'_, GrantView> {
        Box::pin(self.present(token))
    }

    fn grant_list(&self) -> Reply<'_, Vec<GrantView>> {
        Box::pin(self.ask(Message::GrantList))
    }

    fn grant_revoke(&self, grant: String, reason: String) -> Reply<'_, GrantView> {
        Box::pin(self.revoke(grant, reason))
    }

    fn pending(&self, authority: Authority) -> Reply<'_, Vec<PendingView>> {
        Box::pin(self.ask(move |answer| Message::Pending(authority, answer)))
    }

    fn may_approve(&self, uid: u32) -> bool {
        self.approvers.contains(uid)
    }

    fn pending_changes(&self) -> watch::Receiver<u64> {
        self.pending_changes.clone()
    }

    fn answer(&self, spec: AnswerSpec, authority: Authority) -> Reply<'_, AnswerView> {
        Box::pin(self.record_answer(spec, authority))
    }

    fn explain(&self, question: ExplainQuestion) -> Reply<'_, Explanation> {
        Box::pin(self.ask(|answer| Message::Explain(question, answer)))
    }

    fn events(&self) -> Reply<'_, EventFeed> {
        Box::pin(async { Ok(self.events.subscribe()) })
    }

    fn detach(&self, reason: String) -> Reply<'_, ()> {
        Box::pin(self.end(reason))
    }
}
