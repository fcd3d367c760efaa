// The last requests of the functions, newest first, and the curl command of the last one.

import { useEffect, useState } from "react";
import { Copy } from "../app/Copy.tsx";
import { useFormats } from "../app/format.ts";
import { useServices } from "../app/services.tsx";
import { FIRST_USER } from "../app/stack.ts";
import { developer } from "../words/developer.ts";
import { useWords } from "../words/words.ts";
import { curlOf, repeatable } from "./curl.ts";
import { Part } from "./Panel.tsx";
import { type LoggedRequest, tokenOf } from "./stack.ts";

export function Requests({ requests }: { requests: LoggedRequest[] }) {
  const words = useWords(developer);
  const format = useFormats();
  return (
    <>
      <Part title={words.requests}>
        {requests.length === 0 && <p>{words.noRequests}</p>}
        <table hidden={requests.length === 0}>
          <thead>
            <tr>
              <th scope="col">{words.time}</th>
              <th scope="col">{words.request}</th>
              <th scope="col">{words.status}</th>
              <th scope="col">{words.duration}</th>
            </tr>
          </thead>
          <tbody>
            {requests.map((request) => (
              <tr key={request.request_id}>
                <td>{new Date(request.at).toTimeString().slice(0, 8)}</td>
                <td lang="en">
                  <code>
                    {request.method} {request.path}
                    {request.query && `?${request.query}`}
                  </code>
                  <code className="quiet">{request.request_id}</code>
                </td>
                <td data-failed={request.status >= 400 || undefined}>{request.status}</td>
                <td>{request.ms === null ? "…" : `${format.number(Math.round(request.ms))} ms`}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Part>
      <Curl request={repeatable(requests)} />
    </>
  );
}

function Curl({ request }: { request: LoggedRequest | undefined }) {
  const words = useWords(developer);
  const { api, token } = useServices();
  const [command, setCommand] = useState("");
  const id = request?.request_id;

  // biome-ignore lint/correctness/useExhaustiveDependencies: a new command for each request, not for each reading
  useEffect(() => {
    let isCurrent = true;
    async function compose() {
      if (!request) return;
      const fresh = (await token()) ?? (await tokenOf(FIRST_USER));
      if (isCurrent) setCommand(curlOf(request, api, fresh));
    }
    void compose().catch(() => setCommand(""));
    return () => {
      isCurrent = false;
    };
  }, [id, api, token]);

  if (!command) return null;
  return (
    <Part title={words.curl}>
      <pre lang="en">{command}</pre>
      <p className="quiet">{words.example}</p>
      <Copy text={command} label={words.copy} />
    </Part>
  );
}
