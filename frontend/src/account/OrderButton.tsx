// Buys a plan or a pack on Stripe's page. What fails is said at the button.

import { useTask } from "../app/useTask.ts";
import { Problem } from "./Problem.tsx";
import { type Order, useStripe } from "./stripe.ts";

export function OrderButton({ order, label }: { order: Order; label: string }) {
  const { buy } = useStripe();
  const task = useTask();
  const start = () => void task.run(() => buy(order));
  return (
    <>
      <button type="button" className="primary" aria-disabled={task.isBusy} onClick={start}>
        {label}
      </button>
      <Problem error={task.error} onAgain={start} onDismiss={task.clear} />
    </>
  );
}
