"""What a client does: train on its own examples, and measure."""

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from digits_numpy.task import Model, load_data, test
from digits_numpy.task import train as train_model

app = ClientApp()


def model_of(msg: Message) -> Model:
    """The arrays of a message, by name."""
    return {name: array.numpy().copy() for name, array in msg.content["arrays"].items()}


def examples_of(context: Context) -> tuple[np.ndarray, ...]:
    """This node's examples."""
    place = context.node_config
    return load_data(place["partition-id"], place["num-partitions"])


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Train the model on this node's examples."""
    model = model_of(msg)
    x, y, _, _ = examples_of(context)
    config = context.run_config
    loss = train_model(model, x, y, config["local-epochs"], msg.content["config"]["lr"])
    content = RecordDict(
        {
            "arrays": ArrayRecord({name: Array(array) for name, array in model.items()}),
            "metrics": MetricRecord({"train_loss": loss, "num-examples": len(y)}),
        }
    )
    return Message(content=content, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Measure the model on examples that this node never trains on."""
    _, _, x, y = examples_of(context)
    loss, accuracy = test(model_of(msg), x, y)
    metrics = MetricRecord({"eval_loss": loss, "eval_accuracy": accuracy, "num-examples": len(y)})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=msg)
