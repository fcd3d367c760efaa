// A basic user's first visit, with the clients that a frontend has: @supabase/supabase-js signs in and reads, the AI
// SDK chats. Standard input: {supabase_url, publishable_key, functions_url, email, password, chat_id, question, provider}.
// Standard output: what each step gave, for the test to judge.
import { createClient } from "@supabase/supabase-js";
import { DefaultChatTransport, readUIMessageStream } from "ai";
import { text } from "node:stream/consumers";

const stack = JSON.parse(await text(process.stdin));
const supabase = createClient(stack.supabase_url, stack.publishable_key, { auth: { persistSession: false } });
const signIn = await supabase.auth.signInWithPassword({ email: stack.email, password: stack.password });
if (signIn.error) throw signIn.error;
const headers = { authorization: `Bearer ${signIn.data.session.access_token}` };

const transport = new DefaultChatTransport({ api: `${stack.functions_url}/chat`, headers });
const stream = await transport.sendMessages({
  trigger: "submit-message",
  chatId: stack.chat_id,
  messageId: undefined,
  messages: [{ id: `question-${stack.chat_id}`, role: "user", parts: [{ type: "text", text: stack.question }] }],
  abortSignal: undefined,
  body: { provider: stack.provider },
});
const chunks = [];
const [copy, original] = stream.tee();
for await (const chunk of copy) chunks.push(chunk);
let message;
for await (message of readUIMessageStream({ stream: original }));

const usage = await (await fetch(`${stack.functions_url}/usage`, { headers })).json();
const { data: conversation, error } = await supabase
  .from("conversations")
  .select("id, external_id, title, message_count, messages(role, content)")
  .or(`external_id.eq.${stack.chat_id}`)
  .order("position", { referencedTable: "messages" })
  .single();
if (error) throw error;
const logged = await supabase.from("usage_logs").select("outcome, funding, provider, model, conversation_id, message_id");
const foreign = await supabase.from("user_subscriptions").select("user_id");
const rename = await supabase.rpc("update_conversation", { p_id: conversation.id, p_title: "Renamed" });
if (rename.error) throw rename.error;
const renamed = await supabase.from("conversations").select("title");
const cheat = await supabase.from("conversations").update({ title: "Cheat" }).eq("id", conversation.id);
console.log(JSON.stringify({
  user_id: signIn.data.user.id, chunks, message, usage, conversation, logged: logged.data, subscriptions: foreign.data,
  renamed: renamed.data, cheat: cheat.error?.code,
}));
