// Changes to a conversation, by the database's functions.

import { useCallback } from "react";
import { announceChange } from "../app/changes.ts";
import { useServices } from "../app/services.tsx";
import { chatIdOf, type Row } from "./rows.ts";

export type Failure = "gone" | "noHistory" | "notChanged";
export type Change = { title?: string; is_pinned?: boolean; is_archived?: boolean };

/** Both resolve to null, or to why it failed. */
export function useConversationChanges() {
  const { api, supabase } = useServices();

  const update = useCallback(
    async (row: Row, change: Change): Promise<Failure | null> => {
      const { error } = await supabase.rpc("update_conversation", {
        p_id: row.id,
        p_title: change.title,
        p_is_pinned: change.is_pinned,
        p_is_archived: change.is_archived,
      });
      announceChange(chatIdOf(row));
      return error && failureOf(error.code);
    },
    [supabase],
  );

  const remove = useCallback(
    async (row: Row): Promise<Failure | null> => {
      const { error } = await supabase.rpc("delete_conversation", { p_id: row.id });
      const failure = error && failureOf(error.code);
      // Ends an answer that is running, in every tab. Where this fails, the answer ends by itself and is not stored.
      const path = { chat_id: chatIdOf(row) };
      if (!error) await api.call("POST /chat/{chat_id}/stop", { path }).catch(() => {});
      announceChange(chatIdOf(row), { here: failure !== null && failure !== "gone" }); // here it leaves the list
      return failure === "gone" ? null : failure;
    },
    [api, supabase],
  );

  return { update, remove };
}

/** docs/error_codes.md: NTFND is no conversation of the user, 42501 a plan that stores none. */
function failureOf(code: string): Failure {
  if (code === "NTFND") return "gone";
  return code === "42501" ? "noHistory" : "notChanged";
}
