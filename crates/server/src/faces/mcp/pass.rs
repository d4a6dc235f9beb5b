//! Requests that are none to act: on to the server they are for, and its answer back unharmed.

use std::sync::Arc;
use std::time::Duration;

use action::json::{Item, canonical, canonical_array};
use futures_util::future::join_all;
use gateway::Caller;
use gateway::upstream::{Party, Said, Server, Tie, is_ours};
use rmcp::model::{
    ClientRequest, CompleteRequest, CompleteRequestParams, CompleteResult, ErrorCode, ErrorData, GetMeta,
    GetPromptRequest, GetPromptRequestParams, GetPromptResponse, GetPromptResult, GetSkillRequest,
    GetSkillRequestParams, GetSkillResult, InputResponses, ListResourcesResult, ListSkillsRequest,
    ListSkillsResult, MetaObject, PaginatedRequestParams, ReadResourceDirectoryRequest,
    ReadResourceDirectoryRequestParams, ReadResourceRequest, ReadResourceRequestParams, ReadResourceResponse,
    ReadResourceResult, Reference, RequestMetaObject, ServerResult, SetLevelRequest, SetLevelRequestParams,
};
use rmcp::service::{RequestContext, RoleServer};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use super::desk::{Answered, Errand};
use super::face::Face;
use super::inquiry::{Inquiry, is_stateless};
use super::lock;
use super::passed::{COMPLETION, Kind, PROMPT, RESOURCE, RESOURCES, SKILL, SKILLS, formless};
use super::scope::{no_resource, page};
use super::verbatim::carrying;

type Context = RequestContext<RoleServer>;

impl Face {
    /// Passes a request on in whose midst nobody can be asked, unless there is a session.
    pub(super) async fn pass(
        &self,
        context: &Context,
        server: &Arc<Server>,
        mut request: ClientRequest,
    ) -> Result<Said, ErrorData> {
        let inquiry = Inquiry::of(context)?;
        self.may_speak_with(&inquiry.visit.caller, server).await?;
        *request.get_meta_mut() = self.meta(&inquiry);
        let id = self.session().map(|_| inquiry.id.clone());
        let tie = Tie::new(id, inquiry.meta.get_progress_token(), inquiry.gone.clone());
        let (gateway, caller) = (Arc::clone(&self.scope.gateway), Arc::clone(&inquiry.visit.caller));
        let name: Arc<str> = server.name().into();
        let tie = tie.asking_leave(move || {
            let (gateway, caller, name) = (Arc::clone(&gateway), Arc::clone(&caller), Arc::clone(&name));
            Box::pin(async move { gateway.may_speak_with(&caller, &name).await.is_ok() })
        });
        let said = server.pass(&self.party(&inquiry), request, tie).await;
        if let Some(session) = self.session() {
            session.mail.sent().await;
        }
        said?.without_ours().ok_or_else(formless)
    }

    pub(super) async fn may_speak_with(&self, caller: &Caller, server: &Server) -> Result<(), ErrorData> {
        let reached = self.scope.gateway.may_speak_with(caller, server.name()).await;
        reached.map_err(|error| ErrorData::invalid_request(error.message, None))
    }

    /// The servers to be asked for a resource, in their order.
    pub(super) async fn holders(&self, uri: &str, inquiry: &Inquiry) -> Vec<Arc<Server>> {
        let (party, caller) = (self.party(inquiry), &*inquiry.visit.caller);
        self.mcp.whereabouts.of((&self.scope, caller), &party, uri).await
    }

    /// Passes a request on that may end with a question.
    async fn pass_on(
        &self,
        context: &Context,
        server: Arc<Server>,
        mut request: ClientRequest,
        (kind, carry): (Kind, fn(MetaObject) -> ServerResult),
        again: (Option<InputResponses>, Option<String>),
    ) -> Result<ServerResult, ErrorData> {
        let inquiry = Inquiry::of(context)?;
        self.may_speak_with(&inquiry.visit.caller, &server).await?;
        let said = serde_json::to_value(&request).unwrap_or_default();
        let errand = self.errand(&inquiry, &canonical(&json!([server.name(), said])), again.clone())?;
        bring_along(&mut request, again.0);
        *request.get_meta_mut() = self.meta(&inquiry);
        let has_session = !inquiry.is_stateless;
        let answered = self
            .have_done(&inquiry, errand, move |party: Arc<dyn Party>, tie| {
                Box::pin(async move {
                    let said = server.pass(&party, request, tie).await?;
                    let text = kind.told(&said.without_ours().ok_or_else(formless)?, has_session)?;
                    Ok(Answered::of(carry(carrying(text))))
                })
            })
            .await?;
        Ok(answered.result)
    }

    /// What of a client's `_meta` goes along, and what a session said once for all its requests. What is said in our name to a
    /// server we say ourselves.
    pub(super) fn meta(&self, inquiry: &Inquiry) -> RequestMetaObject {
        let all = inquiry.meta.0.iter().filter(|(name, _)| !is_ours(name) && !is_of_protocol(name));
        let mut meta = RequestMetaObject::default();
        all.for_each(|(name, value)| drop(meta.0.insert(name.clone(), value.clone())));
        if let Some(level) = inquiry.meta.log_level() {
            meta.set_log_level(level);
        }
        if let Some(level) = self.session().and_then(|session| *lock(&session.level)) {
            meta.set_log_level(level);
        }
        meta
    }

    pub(super) async fn prompt(
        &self,
        mut asked: GetPromptRequestParams,
        context: &Context,
    ) -> Result<GetPromptResponse, ErrorData> {
        let (server, name) = self.scope.inward(&asked.name).ok_or_else(no_prompt)?;
        let name = name.to_owned();
        (asked.name, asked.meta) = (name, None);
        let again = (asked.input_responses.take(), asked.request_state.take());
        let carry = |meta| {
            let mut result = GetPromptResult::new(Vec::new());
            result.meta = Some(meta);
            ServerResult::GetPromptResult(result)
        };
        let request = GetPromptRequest::new(asked).into();
        match self.pass_on(context, server, request, (PROMPT, carry), again).await? {
            ServerResult::InputRequiredResult(asks) => Ok(asks.into()),
            other => read_ours::<GetPromptResult>(other).map(Into::into),
        }
    }

    pub(super) async fn resource(
        &self,
        mut asked: ReadResourceRequestParams,
        context: &Context,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let again = (asked.input_responses.take(), asked.request_state.take());
        asked.meta = None;
        let carry = |meta| {
            let mut result = ReadResourceResult::new(Vec::new());
            result.meta = Some(meta);
            ServerResult::ReadResourceResult(result)
        };
        let mut refusal = no_resource(&asked.uri);
        for server in self.holders(&asked.uri, &Inquiry::of(context)?).await {
            let request = ReadResourceRequest::new(asked.clone()).into();
            match self.pass_on(context, server, request, (RESOURCE, carry), again.clone()).await {
                Ok(ServerResult::InputRequiredResult(asks)) => return Ok(asks.into()),
                Ok(other) => return read_ours::<ReadResourceResult>(other).map(Into::into),
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }

    pub(super) async fn completion(
        &self,
        mut asked: CompleteRequestParams,
        context: &Context,
    ) -> Result<CompleteResult, ErrorData> {
        asked.meta = None;
        let servers = match &mut asked.r#ref {
            Reference::Prompt(prompt) => {
                let (server, name) = self.scope.inward(&prompt.name).ok_or_else(no_prompt)?;
                prompt.name = name.to_owned();
                vec![server]
            }
            Reference::Resource(resource) => self.holders(&resource.uri, &Inquiry::of(context)?).await,
            _ => self.scope.servers().into_iter().take(1).collect(),
        };
        let mut refusal = ErrorData::invalid_params("there is nothing to be completed", None);
        for server in servers {
            match self.pass(context, &server, CompleteRequest::new(asked.clone()).into()).await {
                Ok(said) => {
                    let mut result = CompleteResult::default();
                    result.meta = Some(carrying(COMPLETION.told(&said, !is_stateless(context))?));
                    return Ok(result);
                }
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }

    /// What a session wants to be told of what servers log. In 2026-07-28 each request says so itself.
    pub(super) async fn log_level(
        &self,
        mut asked: SetLevelRequestParams,
        context: &Context,
    ) -> Result<(), ErrorData> {
        let Some(session) = self.session().filter(|_| !is_stateless(context)) else {
            return Err(ErrorData::new(ErrorCode::METHOD_NOT_FOUND, "logging/setLevel", None));
        };
        *lock(&session.level) = Some(asked.level);
        asked.meta = None;
        let servers = self.scope.servers();
        let all =
            servers.iter().map(|server| timeout(LEVEL_TAKEN_IN, self.set_level(server, &asked, context)));
        let told = join_all(all).await;
        match (self.scope.only(), told.into_iter().next()) {
            (Some(_), Some(told)) => told.unwrap_or_else(|_| {
                Err(ErrorData::internal_error("the server does not say that it took the level", None))
            }),
            _ => Ok(()),
        }
    }

    async fn set_level(
        &self,
        server: &Arc<Server>,
        asked: &SetLevelRequestParams,
        context: &Context,
    ) -> Result<(), ErrorData> {
        let inquiry = Inquiry::of(context)?;
        self.may_speak_with(&inquiry.visit.caller, server).await?;
        let logs = server.about().await.is_ok_and(|about| about.capabilities.logging.is_some());
        // Where there is no session a server is told with each request.
        if !logs || !server.has_session_with(&self.party(&inquiry)).await.unwrap_or_default() {
            return Ok(());
        }
        self.pass(context, server, SetLevelRequest::new(asked.clone()).into()).await.map(drop)
    }

    pub(super) async fn skills(
        &self,
        asked: Option<PaginatedRequestParams>,
        context: &Context,
    ) -> Result<ListSkillsResult, ErrorData> {
        let params = asked.and_then(|asked| page(asked.cursor));
        let request = ListSkillsRequest { params, ..Default::default() };
        let said = self.pass_to_only(context, request.into(), "skills/list").await?;
        let mut result = ListSkillsResult::with_all_items(Vec::new());
        result.meta = Some(carrying(SKILLS.told(&said, !is_stateless(context))?));
        Ok(result)
    }

    pub(super) async fn skill(
        &self,
        mut asked: GetSkillRequestParams,
        context: &Context,
    ) -> Result<GetSkillResult, ErrorData> {
        asked.meta = None;
        let said = self.pass_to_only(context, GetSkillRequest::new(asked).into(), "skills/get").await?;
        // In its form as well, which rmcp looks at.
        let mut result: GetSkillResult = complete(said.value.clone())?;
        result.meta = Some(carrying(SKILL.told(&said, !is_stateless(context))?));
        Ok(result)
    }

    pub(super) async fn directory(
        &self,
        mut asked: ReadResourceDirectoryRequestParams,
        context: &Context,
    ) -> Result<ListResourcesResult, ErrorData> {
        asked.meta = None;
        let request = ReadResourceDirectoryRequest::new(asked).into();
        let said = self.pass_to_only(context, request, "resources/directory/read").await?;
        let mut result = ListResourcesResult::with_all_items(Vec::new());
        result.meta = Some(carrying(RESOURCES.told(&said, !is_stateless(context))?));
        Ok(result)
    }

    /// Passes on what only an address of one server has.
    pub(super) async fn pass_to_only(
        &self,
        context: &Context,
        request: ClientRequest,
        method: &str,
    ) -> Result<Said, ErrorData> {
        match (self.scope.only(), self.scope.servers().first()) {
            (Some(_), Some(server)) => self.pass(context, server, request).await,
            _ => Err(ErrorData::new(ErrorCode::METHOD_NOT_FOUND, method.to_owned(), None)),
        }
    }

    /// A request as it came this time, known again by who asks for `what`, in canonical form.
    pub(super) fn errand(
        &self,
        inquiry: &Inquiry,
        what: &str,
        (responses, state): (Option<InputResponses>, Option<String>),
    ) -> Result<Errand, ErrorData> {
        let caller = &inquiry.visit.caller;
        let shelf = self.scope.gateway.shelf(caller);
        let shelf = shelf.map_err(|error| ErrorData::invalid_request(error.message, None))?;
        let owner: Arc<str> = self.owner(caller).into();
        let at = self.scope.name();
        let [kind, who, at] = ["countersign/mcp-errand/1", &*owner, &at].map(Item::Text);
        let bound = Sha256::digest(canonical_array(&[kind, who, at, Item::Canonical(what)])).into();
        let input = self.scope.gateway.mcp_settings().input();
        let able = match self.session() {
            Some(session) => session.client().capabilities.clone(),
            None => inquiry.client.1.clone(),
        };
        let (seat, recall, is_joined) = (None, None, false);
        Ok(Errand { bound, shelf, owner, responses, state, seat, recall, is_joined, able, input })
    }
}

/// Whether a member of `_meta` says who asks, and how, which each link says for itself.
fn is_of_protocol(name: &str) -> bool {
    name.starts_with("io.modelcontextprotocol/")
}

/// What the client answers without having been asked by us its server may know what to do with.
fn bring_along(request: &mut ClientRequest, responses: Option<InputResponses>) {
    match request {
        ClientRequest::GetPromptRequest(request) => request.params.input_responses = responses,
        ClientRequest::ReadResourceRequest(request) => request.params.input_responses = responses,
        _ => {}
    }
}

/// What another gateway says, in the form of what was asked for.
pub(super) fn read_ours<R: DeserializeOwned>(result: ServerResult) -> Result<R, ErrorData> {
    complete(serde_json::to_value(result).unwrap_or_default())
}

/// Servers before 2026-07-28 do not say that it is complete; rmcp leaves that out again for clients that do not know it.
fn complete<R: DeserializeOwned>(mut value: Value) -> Result<R, ErrorData> {
    if let Some(members) = value.as_object_mut() {
        members.entry("resultType").or_insert_with(|| "complete".into());
    }
    serde_json::from_value(value).map_err(|_| formless())
}

fn no_prompt() -> ErrorData {
    ErrorData::invalid_params("there is no such prompt", None)
}

/// How long a client waits for servers to say that they took a level.
const LEVEL_TAKEN_IN: Duration = Duration::from_secs(10);
