// The bodies and routes of the HTTP API. Generated from docs/openapi.json by `make openapi`.

/** A limit of which 80 or 100 percent are used, with a sentence in the language of the request. */
export type Alert = {
  kind: "included" | "overage" | "credits";
  percent: 80 | 100;
  reason_code: string;
  message: string;
  action: "upgrade" | "buy_pack" | "update_card" | "pay_invoice" | "enable_overage" | "raise_limit" | "confirm_email" | "reconnect_key" | "wait" | "contact_support" | "none";
};

/** What operators tell users, in the language of the request. `provider`: the one that is paused. */
export type Announcement = {
  kind: string;
  provider: string | null;
  message: string;
  starts_at: string;
  ends_at: string | null;
};

/** Overage of a period that was put on an invoice. */
export type Bill = {
  period_start: string;
  queries: number;
  unit_price_usd: number;
  amount_usd: number;
  billed_usd: number;
};

/** The user as Stripe's customer. `ends_at`: when a canceled plan ends; `next_tier`: the plan after this period. */
export type Billing = {
  is_customer: boolean;
  is_subscribed: boolean;
  ends_at: string | null;
  next_tier: "free" | "basic" | "pro" | "usage_only" | null;
  past_due_since: string | null;
  currency: string;
  to_be_billed_usd: number;
  billed: Bill[];
};

/** A page of a chat, oldest message first. `before` is the parameter of the page before; null: there is none. */
export type ChatMessages = {
  conversation: Conversation;
  messages: UIMessage[];
  before: number | null;
};

/** The body of POST /chat. */
export type ChatRequest = {
  id: string;
  messages: UIMessageInput[];
  trigger?: "submit-message" | "regenerate-message";
  messageId?: string | null;
  context?: Context;
  provider?: "anthropic" | "openai" | null;
  model?: string | null;
  language?: "en" | "fr";
};

/** The body of POST /checkout: a plan or a pack. */
export type CheckoutRequest = {
  plan?: "basic" | "pro" | "usage_only" | null;
  pack?: string | null;
  success_url: string;
  cancel_url: string;
};

/** The page that the user is on. */
export type Context = {
  type?: "general" | "mp" | "bill" | "dashboard" | "lobbying" | "spending";
  id?: string | null;
  data?: Record<string, unknown> | null;
};

/** A chat. While nothing is stored, `id` and what the first answer decides are null. */
export type Conversation = {
  id: string | null;
  chat_id: string;
  title: string | null;
  context_type: "general" | "mp" | "bill" | "dashboard" | "lobbying" | "spending" | null;
  context_id: string | null;
  is_pinned: boolean;
  is_archived: boolean;
  created_at: string | null;
  last_message_at: string | null;
  expires_at: string | null;
  is_running: boolean;
};

/** What was used in a time. */
export type Counts = {
  queries: number;
  tokens: number;
  cost_usd: number;
};

/** A credit pack that the user bought. A frozen one is disputed and does not pay. */
export type CreditPack = {
  id: string;
  purchased: number;
  remaining: number;
  bought_at: string;
  expires_at: string | null;
  is_frozen: boolean;
};

/** Prepaid queries. */
export type Credits = {
  remaining: number;
  packs: CreditPack[];
};

/** Whether there was something to delete. */
export type Deleted = {
  deleted: boolean;
};

/** The body of DELETE /account. `confirm`: the e-mail address of the account. */
export type DeletionRequest = {
  confirm: string;
};

/** Why a request is refused or failed. `message` is for the user, `action` what helps. The other fields depend on */
export type ErrorDetails = {
  code: "account_blocked" | "already_answered" | "byok_balance_exhausted" | "byok_key_rejected" | "byok_not_allowed" | "conflict" | "email_not_confirmed" | "forbidden" | "internal" | "invalid_json" | "invalid_request" | "invalid_signature" | "method_not_allowed" | "model_not_available" | "not_an_http_request" | "not_found" | "overage_limit_reached" | "payment_required" | "payment_unavailable" | "provider_error" | "provider_overloaded" | "provider_timeout" | "quota_exhausted" | "request_in_progress" | "too_large" | "too_many_requests" | "unauthenticated" | "unavailable";
  message: string;
  reason_code: "account_blocked" | "already_answered" | "answer_failed" | "byok_balance_exhausted" | "byok_key_not_stored" | "byok_key_rejected" | "byok_key_unreadable" | "byok_model_gone" | "byok_not_allowed" | "byok_not_permitted" | "byok_rate_limited" | "chat_paused" | "conflict" | "conversation_not_found" | "conversation_too_large" | "credits_used" | "currency_differs" | "daily_quota_used" | "daily_quota_used_overage_off" | "deletion_unpaid" | "email_not_confirmed" | "end_not_received" | "export_repeated" | "export_too_large" | "forbidden" | "free_answers_off" | "free_quota_used" | "internal" | "invalid_json" | "invalid_request" | "invalid_signature" | "invoice_open" | "json_too_deep" | "method_not_allowed" | "model_gone" | "model_not_available" | "model_not_in_plan" | "model_of_other_plan" | "no_models" | "no_quota" | "no_subscription" | "not_an_http_request" | "not_found" | "not_shared" | "nothing_bought" | "old_sign_in" | "overage_ceiling_reached" | "overage_limit_reached" | "overage_off" | "overage_owed" | "overage_returned" | "overage_unpaid" | "overage_without_invoice" | "pack_not_found" | "payment_failed" | "payment_unavailable" | "price_differs" | "prompt_refused" | "provider_error" | "provider_not_available" | "provider_overloaded" | "provider_paused" | "provider_timeout" | "query_not_found" | "question_too_long" | "request_in_progress" | "sign_ups_paused" | "subscription_ended" | "subscription_live" | "subscription_paused" | "subscription_unpaid" | "too_large" | "too_many_failures" | "too_many_followers" | "too_many_queries" | "too_many_tool_calls" | "unauthenticated" | "unavailable" | "user_not_found";
  action: "upgrade" | "buy_pack" | "update_card" | "pay_invoice" | "enable_overage" | "raise_limit" | "confirm_email" | "reconnect_key" | "wait" | "contact_support" | "none";
  request_id: string;
  reason?: string;
  requires_payment?: boolean;
  resets_at?: string | null;
  url?: string | null;
  provider?: string;
  model?: string;
  models?: string | null;
  limit_kib?: number;
  fields?: InvalidField[];
};

/** Why the answer failed, as in the HTTP API. The sentence is in the part `error`. */
export type ErrorInfo = {
  code: string;
  reason_code: string;
  action: string;
};

/** The body of every response with an error. */
export type ErrorResponse = {
  error: ErrorDetails;
};

/** The rating of an answer. */
export type Feedback = {
  rating: "up" | "down" | null;
  comment: string | null;
};

/** The body of PUT /messages/{message_id}/feedback. A rating of null removes the feedback. */
export type FeedbackRequest = {
  rating: "up" | "down" | null;
  comment?: string | null;
};

/** The function runs. */
export type Health = {
  status: "ok";
};

/** The quota: of a day, or in total where `resets_at` is null. */
export type Included = {
  limit: number;
  used: number;
  remaining: number;
  resets_at: string | null;
};

/** What is wrong with a field of a request. */
export type InvalidField = {
  field: string;
  message: string;
};

/** A stored key as its user sees it. Times are in ISO 8601. */
export type KeyInfo = {
  provider: "anthropic" | "openai";
  hint: string;
  status: "valid" | "invalid" | "unchecked";
  last_validated_at: string | null;
  validation_error: string | null;
  created_at: string;
};

/** The body of PUT /keys/{provider}. */
export type KeyRequest = {
  api_key: string;
};

/** What the client learns about a turn at its end. */
export type Metadata = {
  request_id: string;
  provider: string;
  model: string;
  funding: string;
  usage: TokenCounts;
  cost_usd: number | null;
  charged_usd: number | null;
  remaining: number | null;
  resets_at: string | null;
  persisted: boolean;
  finish_reason: "stop" | "length" | "content-filter" | "stopped" | "limit" | null;
  outcome?: "lost";
  error?: ErrorInfo;
};

/** The body of PATCH /overage: an absent field stays as it is; a limit of null is the plan's default. */
export type OverageRequest = {
  allow_overages?: boolean | null;
  overage_limit_usd?: number | null;
};

/** set_overage: the answer of PATCH /overage, the same as `overage` in GET /usage. Amounts are in `currency`. */
export type OverageSettings = {
  allowed: boolean;
  currency: string;
  price_usd: number | null;
  limit_usd: number | null;
  used_usd: number;
};

/** Whether the plan includes own keys, and the providers that the user has an active one for. */
export type OwnKeys = {
  allowed: boolean;
  providers: string[];
};

/** A credit pack on sale. `expires_after_days` null: its credits never expire. Amounts are in `currency`. */
export type Pack = {
  id: string;
  name: string;
  credits: number;
  currency: string;
  price_usd: number;
  price_per_credit_usd: number;
  expires_after_days: number | null;
};

/** A page at Stripe: a checkout session or a portal session. */
export type Page = {
  url: string;
  session_id: string;
};

/** A part of a UIMessage. Only the text of text parts is read. */
export type Part = {
  type: string;
  text?: string | null;
};

/** The billing period, or the calendar month of a user without one. */
export type Period = {
  start: string;
  end: string;
};

/** A plan. Either `daily_quota` or `lifetime_quota` is null. Models by provider, the default first. Amounts are in */
export type Plan = {
  tier: string;
  name: string;
  currency: string;
  price_usd: number;
  daily_quota: number | null;
  lifetime_quota: number | null;
  overage_price_usd: number | null;
  overage_limit_usd: number | null;
  allows_credits: boolean;
  allows_byok: boolean;
  history_days: number;
  models: Record<string, string[]>;
  own_key_models: Record<string, string[]>;
};

/** The user's billing portal at Stripe. */
export type PortalPage = {
  url: string;
};

/** The body of POST /portal. */
export type PortalRequest = {
  return_url: string;
};

/** list_plans: the answer of GET /plans. */
export type PriceList = {
  plans: Plan[];
  packs: Pack[];
};

/** What was done with an event. Repeated: it was processed before. Ignored: its type is not used, or it is about */
export type Received = {
  outcome: "processed" | "repeated" | "ignored";
};

/** Where a shared conversation is read, and until when. */
export type Share = {
  token: string;
  url: string;
  expires_at: string;
};

/** A copy of a conversation. */
export type SharedConversation = {
  title: string | null;
  messages: SharedMessage[];
  shared_at: string;
  expires_at: string;
};

/** A UIMessage with its text and its sources. */
export type SharedMessage = {
  id: string;
  role: string;
  parts: Record<string, unknown>[];
  metadata: Record<string, unknown>;
};

/** Whether there was an answer to stop. */
export type Stopping = {
  stopping: boolean;
};

/** The user's keys. */
export type StoredKeys = {
  keys: KeyInfo[];
};

/** Tokens, as the client reads them. */
export type TokenCounts = {
  input_tokens: number;
  output_tokens: number;
  cache_read_tokens: number;
  cache_write_tokens: number;
};

/** The AI SDK's UIMessage. */
export type UIMessage = {
  id: string;
  role: string;
  parts: Record<string, unknown>[];
  metadata?: Metadata;
};

/** A message as the AI SDK's client sends it. System messages are rejected. */
export type UIMessageInput = {
  id: string;
  role: "user" | "assistant";
  parts: Part[];
  metadata?: unknown;
};

/** The user's plan, and what is left of it. `message`: why the next query is admitted or refused. */
export type Usage = {
  tier: "free" | "basic" | "pro" | "usage_only";
  status: string;
  period: Period;
  included: Included;
  overage: OverageSettings;
  credits: Credits;
  byok: OwnKeys;
  models: Record<string, string[]>;
  own_key_models: Record<string, string[]>;
  keeps_history: boolean;
  history_days: number;
  concurrent_queries: number;
  alerts: Alert[];
  announcements: Announcement[];
  billing: Billing;
  can_query: boolean;
  reason: string;
  reason_code: string;
  message: string;
  action: "upgrade" | "buy_pack" | "update_card" | "pay_invoice" | "enable_overage" | "raise_limit" | "confirm_email" | "reconnect_key" | "wait" | "contact_support" | "none";
  resets_at: string | null;
  requires_payment: boolean;
  today: Counts;
  month: Counts;
};

/** What POST /chat returns as JSON. */
export type WholeAnswer = {
  message: UIMessage;
  metadata: Metadata;
};

/** The routes with a JSON response that users call. `on`: the functions that have the route. */
export type Routes = {
  /** Delete the user and all their data. */
  "DELETE /account": {
    on: "account";
    body: DeletionRequest;
    response: Deleted;
  };
  /** Everything that is stored about the user. */
  "GET /account/export": {
    on: "account";
    response: Record<string, unknown>;
  };
  /** Answer the last message: as a stream, or as one JSON document for `Accept: application/json`. */
  "POST /chat": {
    on: "chat";
    body: ChatRequest;
    response: WholeAnswer;
  };
  /** The chat's messages as the streams built them, the question of a running answer included. */
  "GET /chat/{chat_id}/messages": {
    on: "chat";
    path: {
      chat_id: string;
    };
    query?: {
      before?: number | null;
    };
    response: ChatMessages;
  };
  /** Stop sharing a conversation. */
  "DELETE /chat/{chat_id}/share": {
    on: "account";
    path: {
      chat_id: string;
    };
    response: Deleted;
  };
  /** Share a copy of a conversation with everybody who has the link. */
  "POST /chat/{chat_id}/share": {
    on: "account";
    path: {
      chat_id: string;
    };
    response: Share;
  };
  /** Stop the running answer. 202 even where there is none, because it may have ended just now. */
  "POST /chat/{chat_id}/stop": {
    on: "chat" | "account";
    path: {
      chat_id: string;
    };
    response: Stopping;
  };
  /** A checkout page at Stripe. */
  "POST /checkout": {
    on: "checkout";
    body: CheckoutRequest;
    response: Page;
  };
  /** Whether the function runs. Makes no other request. */
  "GET /health": {
    on: "chat" | "keys" | "checkout" | "account" | "webhooks";
    response: Health;
  };
  /** The user's keys. */
  "GET /keys": {
    on: "keys";
    response: StoredKeys;
  };
  /** Delete the stored key. */
  "DELETE /keys/{provider}": {
    on: "keys";
    path: {
      provider: "anthropic" | "openai";
    };
    response: Deleted;
  };
  /** Check and store a key. */
  "PUT /keys/{provider}": {
    on: "keys";
    path: {
      provider: "anthropic" | "openai";
    };
    body: KeyRequest;
    response: KeyInfo;
  };
  /** Check the stored key again. */
  "POST /keys/{provider}/validate": {
    on: "keys";
    path: {
      provider: "anthropic" | "openai";
    };
    response: KeyInfo;
  };
  /** Rate an answer. */
  "PUT /messages/{message_id}/feedback": {
    on: "account";
    path: {
      message_id: string;
    };
    body: FeedbackRequest;
    response: Feedback;
  };
  /** This description. */
  "GET /openapi.json": {
    on: "account";
    response: Record<string, unknown>;
  };
  /** Change the user's overage settings. */
  "PATCH /overage": {
    on: "checkout";
    body: OverageRequest;
    response: OverageSettings;
  };
  /** The price list. */
  "GET /plans": {
    on: "checkout";
    response: PriceList;
  };
  /** The user's billing portal at Stripe. */
  "POST /portal": {
    on: "checkout";
    body: PortalRequest;
    response: PortalPage;
  };
  /** A shared conversation, for everybody who has the link. It is not cached, because it may end at any time. */
  "GET /shared/{token}": {
    on: "account";
    path: {
      token: string;
    };
    response: SharedConversation;
  };
  /** The user's plan and what is left of it. */
  "GET /usage": {
    on: "account";
    response: Usage;
  };
};
